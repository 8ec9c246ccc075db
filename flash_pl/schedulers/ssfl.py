"""SSFL: one global mask from the saliencies that all clients find before training."""

import torch
from torch import Tensor

from flash_pl.schedulers.base import SparseScheduler
from flash_pl.schedulers.saliency import SaliencyStage
from flash_pl.server import ServerState
from flash_pl.sparsity import AsDrawn, FirstMask, top_k, total_count


class SSFL(SparseScheduler):
    """Salient sparse federated learning: a fixed mask of the d n weights of largest mean saliency.

    Source: Ohib et al., SSFL, TMLR 2026 (arXiv 2405.09037), the authors' code was read. Before the first round every
    client sends |g w| of one minibatch at the dense initial weights, 4 bytes a weight; the server takes their plain
    mean and keeps the largest over all layers. Then values go both ways under that mask, which is sent once.

    Other than there: saliencies are found in training mode, not with the running statistics of batch norms; ties go by
    position; layers that the model excludes stay dense.

    Args:
        saliency: who sends saliencies.
        first_mask: as in ``SparseScheduler``; of it only ``initialise`` acts, by default the initial weights stay as
            drawn, since they were measured so.
    """

    def __init__(self, saliency: SaliencyStage | None = None, first_mask: FirstMask | None = None) -> None:
        super().__init__(first_mask or FirstMask(initialise=AsDrawn()))
        self.first_stage = saliency or SaliencyStage()

    def initial_mask(self, server: ServerState, found: Tensor | None, generator: torch.Generator) -> Tensor:
        assert found is not None
        return top_k(found, total_count(server.layout.sizes, server.density))
