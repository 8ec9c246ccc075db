"""A checkpoint as what came out of the training: the models that devices get."""

import math
from collections.abc import Mapping
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from flash_pl import __version__
from flash_pl.checkpoint import read_checkpoint
from flash_pl.config import build_budget, build_data, build_module, compose, label, network_prefix, saved_config
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.sparsity import Layout, Slot, SparseModel, SparsityBudget


class SavedRun:
    """A run of ``flash-pl fit``, from its checkpoint.

    Attributes:
        path: of the checkpoint.
        config: the resolved config.
        round: rounds done.

    Raises:
        ConfigError: a file that is not whole, that a trainer without a config wrote, or from before the first mask.
    """

    def __init__(self, path: str | Path) -> None:
        state = read_checkpoint(path)
        self.path, self.config = Path(path), compose(saved_config(state, path))
        if not state["flash_pl"]["has_mask"]:
            raise ConfigError("ckpt_path", str(path), "a checkpoint with a mask; here stage 1 was still looking for it")
        self.round: int = state["flash_pl"]["round"]
        self._saved: dict[str, Tensor] = state["state_dict"]
        server = state["flash_pl"]["server"]
        self._layout, self._mask = Layout.from_specification(server["layout"]), server["mask"]
        self._weights: Tensor = server.get("average", server["weights"])
        self._tier_masks: list[Tensor] = state["flash_pl"]["tier_masks"]
        self._prefix = network_prefix(self.config)

    @property
    def densities(self) -> list[float]:
        """What its tiers of devices can afford, increasing; the last one is the server's."""
        return [tier.density for tier in self._budget.tiers]

    @property
    def _budget(self) -> SparsityBudget:
        return build_budget(self.config)

    def facts(self, density: float) -> dict[str, str]:
        """What there is to know of a model whose mask has this density."""
        return {
            "scheduler": label(self.config, "scheduler"),
            "density": f"{density:.4g}",
            "data": label(self.config, "data"),
            "model": self.config["model"]["class_path"],
            "round": str(self.round),
        }

    def model(self, density: float | None = None) -> SparseModel:
        """The model that a device of this density gets; by default of the server's own.

        It has the tensors of the network's state dict under the network's own names: so no buffers that are not saved,
        and with the counters and the second names of shared weights that the server's arena lacks.

        Raises:
            ConfigError: no tier has this density.
        """
        own: float = self.config["density"]
        if density is None or math.isclose(density, own, rel_tol=1e-6):
            return self._model(self._mask)
        densities = self.densities
        tier = next((i for i, one in enumerate(densities) if math.isclose(density, one, rel_tol=1e-6)), None)
        if tier is None:
            allowed = "the density of a tier of this run"
            raise ConfigError("density", density, f"{allowed}: {', '.join(f'{one:g}' for one in densities)}")
        return self._model([*self._tier_masks, self._mask][tier])

    def _model(self, mask: Tensor) -> SparseModel:
        weights = self._weights.clone()
        weights[: self._layout.maskable].mul_(mask)
        slots = {slot.name: slot for slot in self._layout.slots}
        tensors = {}
        for name, value in self._saved.items():
            slot = slots.get(name) or self._twin(value)
            tensors[name] = (slot.view(weights) if slot else value).contiguous().clone()
        masks = {layer.name: layer.view(mask).contiguous().clone() for layer in self._layout.layers}
        density = int(mask.count_nonzero()) / self._layout.maskable
        facts = self.facts(density) | {"flash_pl": __version__}
        return SparseModel(self._own(tensors), self._own(masks), facts)

    def _twin(self, value: Tensor) -> Slot | None:
        """Where in the arena the weight lies that two layers share, given its ``value`` under the other name."""
        for slot in self._layout.slots:
            saved = self._saved.get(slot.name)
            if saved is not None and saved.dtype == value.dtype and torch.equal(saved, value):
                return slot
        return None

    def _own(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Those of the network, under its own names; metrics of the module around it are left out."""
        prefix = self._prefix
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


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
