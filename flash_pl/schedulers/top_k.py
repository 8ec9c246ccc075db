"""Top-K: dense training, sparse uploads."""

import torch

from flash_pl.client import ClientContext, ClientState
from flash_pl.schedulers.magnitude_upload import MagnitudeUpload


class TopK(MagnitudeUpload):
    """Clients train all weights and send those of largest magnitude (baseline of SparsyFed, ICLR 2025).

    Weights that arrive as 0 train too. Up go d n weights and their mask, down the union of the last cohort's.
    Training is dense, and its FLOPs are counted so.

    Read in a fork of the SparsyFed authors' code, which also ranks the first and the last layer; here those that the
    model excludes stay dense.
    """

    def on_client_start(self, client: ClientState, context: ClientContext) -> None:
        client.move_mask_(torch.ones_like(client.mask), survivors=client.mask)
