"""A checkpoint as what came out of the training: the models that devices get."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from flash_pl import __version__
from flash_pl.checkpoint import read_checkpoint
from flash_pl.config import build_budget, compose, label, network_prefix, saved_config
from flash_pl.errors import ConfigError
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
        self._layout, self._mask = Layout.from_plan(server["layout"]), server["mask"]
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
            "method": label(self.config, "scheduler"),
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
