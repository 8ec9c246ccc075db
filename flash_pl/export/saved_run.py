"""The trained models in a checkpoint: the server's, those of the device tiers, and the network to run them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from flash_pl import __version__
from flash_pl.checkpoint import checkpoint_file, read_checkpoint
from flash_pl.config import build_data, build_module, compose, foreign_names, network_prefix, saved_config
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, ModuleError, as_yaml, in_one_line
from flash_pl.saved_state import check_checkpoint, other_structure
from flash_pl.sparsity import Layout, Slot, SparseModel


class SavedRun:
    """A run, read from its checkpoint. Nothing that the file names is imported or built.

    Args:
        path: of the checkpoint, such as ``runs/x/checkpoints/last.ckpt``, or of the run directory ``runs/x``.

    Attributes:
        path: of the checkpoint.
        round: number of finished rounds.
        densities: of the device tiers, increasing; the last one is the server's density.

    Raises:
        ConfigError: the file is damaged or has no mask yet.
    """

    def __init__(self, path: str | Path) -> None:
        path = checkpoint_file(path)
        state = read_checkpoint(path)
        check_checkpoint(state, path)
        self.path, self._state = path, state
        saved = state["flash_pl"]
        if not saved["has_mask"]:
            problem = f"{as_yaml(str(path))} has no mask: it was saved in stage 1, before the first mask"
            raise ConfigError("ckpt_path", problem, "use a later checkpoint")
        self.round: int = saved["round"]
        self.densities: list[float] = saved["densities"]
        # A module may save other values than tensors beside them.
        self._state_dict = {name: value for name, value in state["state_dict"].items() if isinstance(value, Tensor)}
        server = saved["server"]
        self._layout, self._mask = _layout_of(server), server["mask"]
        self._weights: Tensor = server.get("round_average", server["weights"])
        self._tier_masks: list[Tensor] = saved["tier_masks"]
        # What flash-pl fit adds; a trainer that was made in Python has no config.
        self._names: dict[str, str] = saved["extra"].get("names") or {"scheduler": saved["identity"]["scheduler"]}
        self._prefix: str = saved["extra"].get("network_prefix", "")

    @property
    def config(self) -> dict[str, Any]:
        """The config of the run, to be composed.

        Raises:
            ConfigError: the checkpoint has no config; ``flash-pl fit`` did not write it.
        """
        return saved_config(self._state, self.path)

    def facts(self, density: float) -> dict[str, str]:
        """Return the facts about a model of this run whose mask has this density, for the metadata of a file."""
        return self._names | {"density": f"{density:.4g}", "round": str(self.round)}

    def model(self, density: float | None = None) -> SparseModel:
        """Return the model for devices of a tier, by default the server's model.

        Its tensors are those of the network's state dict, under the network's own names. So it has integer buffers and
        both names of a shared weight, which the server's arena lacks, but no non-persistent buffers.

        Args:
            density: of a tier, one of ``densities``.

        Raises:
            ConfigError: no tier has this density.
        """
        masks = [*self._tier_masks, self._mask]
        if density is None:
            return self._model(self._mask)
        for tier_density, mask in zip(self.densities, masks, strict=True):
            if math.isclose(density, tier_density, rel_tol=1e-6):
                return self._model(mask)
        tiers = ", ".join(f"{tier_density:g}" for tier_density in self.densities)
        raise ConfigError("density", f"{density:g} is not the density of a tier of this run", f"the tiers have {tiers}")

    def _model(self, mask: Tensor) -> SparseModel:
        weights = self._weights.clone()
        weights[: self._layout.maskable].mul_(mask)
        slots = {slot.name: slot for slot in self._layout.slots}
        tensors = {}
        for name, value in self._state_dict.items():
            slot = slots.get(name) or self._shared_slot(value)
            tensors[name] = (slot.view(weights) if slot else value).contiguous().clone()
        masks = {layer.name: layer.view(mask).contiguous().clone() for layer in self._layout.layers}
        density = int(mask.count_nonzero()) / self._layout.maskable
        facts = self.facts(density) | {"flash_pl": __version__}
        return SparseModel(self._of_network(tensors), self._of_network(masks), facts)

    def _shared_slot(self, value: Tensor) -> Slot | None:
        """The slot of a weight that two layers share, given its ``value`` under the name that has no slot."""
        for slot in self._layout.slots:
            saved = self._state_dict.get(slot.name)
            if saved is not None and saved.dtype == value.dtype and torch.equal(saved, value):
                return slot
        return None

    def _of_network(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the network under its own names, without those of the module around it, such as metrics."""
        prefix = self._prefix
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _layout_of(server: Mapping[str, Any]) -> Layout:
    """The layout of a server's state.

    Raises:
        ConfigError: the layout is invalid, or its size is not that of the weights.
    """
    try:
        layout = Layout.from_specification(server["layout"])
    except ValueError as error:
        raise other_structure("flash_pl.server.layout", str(error)) from error
    if layout.size != len(server["weights"]):
        problem = f"it has {layout.size} elements, and there are {len(server['weights'])} weights"
        raise other_structure("flash_pl.server.layout", problem)
    return layout


def build_network(run: SavedRun, model: SparseModel, samples: int, trust: bool = False) -> tuple[nn.Module, Tensor]:
    """Return the run's network with the weights of ``model``, and a batch of ``samples`` inputs for it.

    For images the inputs are Gaussian noise in the shape of the data. Other data are loaded, and the inputs are test
    samples: the characters of a text, for example, are numbers below that of its classes.

    Args:
        run: whose config says what to build.
        model: with the weights.
        samples: in the batch.
        trust: use also classes outside of flash_pl that the checkpoint names, see ``flash_pl.config.foreign_names``.

    Raises:
        ConfigError: the checkpoint names such a class, or the network does not fit the weights.
        ModuleError: a LightningModule without ``forward``.
    """
    with foreign_names(run.path, run.config, trust=trust):
        config = compose(run.config)
        data = build_data(config)
        module = build_module(config, data)
        prefix = network_prefix(config)
    network = module.get_submodule(prefix.rstrip("."))
    if isinstance(network, L.LightningModule) and not is_overridden("forward", network, parent=L.LightningModule):
        raise ModuleError(f"{type(network).__name__}: it has no forward; an export to ONNX needs one")
    try:
        network.load_state_dict(model.tensors)
    except RuntimeError as error:
        reason = in_one_line(error)
        problem = f"{as_yaml(str(run.path))} does not fit the network that its config builds ({reason})"
        raise ConfigError("ckpt_path", problem, "use the code with which the run was trained") from error
    return network, _inputs(data, samples)


def _inputs(data: FederatedData, count: int) -> Tensor:
    shape = getattr(data, "shape", None)
    if shape is not None and len(shape) == 3:
        return torch.randn(count, *shape, generator=torch.Generator().manual_seed(0))
    data.prepare_data()
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    return inputs[torch.arange(count) % len(inputs)]
