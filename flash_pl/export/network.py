"""The network of a run, outside of any training."""

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from flash_pl.config import build_data, build_module, network_prefix
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.export.saved_run import SavedRun
from flash_pl.sparsity import SparseModel


def build_network(run: SavedRun, model: SparseModel, samples: int) -> tuple[nn.Module, Tensor]:
    """The run's network with the weights of ``model``, and ``samples`` that it takes.

    They are noise of the data's shape; only data that do not know their shape are loaded, and then the first test
    samples are taken.

    Raises:
        ConfigError: the checkpoint is of another network than its config now builds.
        ModuleError: a LightningModule without ``forward``.
    """
    data = build_data(run.config)
    module = build_module(run.config, data)
    network = module.get_submodule(network_prefix(run.config).rstrip("."))
    if isinstance(network, L.LightningModule) and not is_overridden("forward", network, parent=L.LightningModule):
        raise ModuleError(f"{type(network).__name__}: it has no forward, which is what would be exported")
    try:
        network.load_state_dict(model.tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ConfigError("ckpt_path", str(run.path), f"a checkpoint of what its config builds ({reason})") from error
    return network, _samples(data, samples)


def _samples(data: FederatedData, count: int) -> Tensor:
    shape = getattr(data, "shape", None)
    if shape is not None:
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    images = batch[0] if isinstance(batch, tuple | list) else batch
    return images[torch.arange(count) % len(images)]
