"""Metrics that a module logs in a federated run."""

import inspect
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only
from torchmetrics import Metric, MetricCollection

from flash_pl.errors import ModuleError

# Names and functions that ``self.log(reduce_fx=...)`` accepts, and the names of their reductions.
REDUCTIONS: dict[Any, str] = {
    "mean": "mean",
    "avg": "mean",
    "sum": "sum",
    "min": "min",
    "max": "max",
    torch.mean: "mean",
}
REDUCTIONS |= {torch.sum: "sum", sum: "sum", torch.min: "min", min: "min", torch.max: "max", max: "max"}
_LOG, _LOG_DICT = inspect.signature(L.LightningModule.log), inspect.signature(L.LightningModule.log_dict)


def samples_in(batch: Any) -> int:
    """Return the number of samples of a batch: the first dimension of its tensors.

    Raises:
        ModuleError: there is no tensor in the batch.

    >>> samples_in((torch.zeros(8, 3), torch.zeros(8)))
    8
    """
    first = batch[0] if type(batch) is tuple else None
    if isinstance(first, Tensor) and first.ndim:
        return len(first)
    try:
        return extract_batch_size(batch)
    except (MisconfigurationException, RecursionError) as error:
        kind = type(batch).__name__
        raise ModuleError(
            f"a {kind} has no known number of samples; give it as self.log(..., batch_size=...)"
        ) from error


class Meter:
    """Collects ``self.log`` calls and reduces them as Lightning's Trainer does over an epoch.

    The default is the mean, weighted by batch size. Sums, minima and maxima are those of the logged values. A
    torchmetric computes its own value. If a name is logged inside of batches and between them, the later hook wins, as
    in the Trainer.

    Args:
        metrics: the module's torchmetrics; no others can be logged.

    Attributes:
        batch_samples: size of the last batch that logged a mean, by ``batch_size`` or counted; None before the first.
        given_samples: the last ``batch_size``; None before the first.

    >>> meter = Meter()
    >>> batch = (torch.zeros(3, 2), torch.zeros(3))
    >>> meter.log(batch, "loss", 1.0)
    >>> meter.log(batch, "loss", 5.0, batch_size=1)
    >>> meter.log(batch, "steps", 1.0, reduce_fx="sum")
    >>> meter.compute(), meter.reductions
    ({'loss': 2.0, 'steps': 1.0}, {'steps': 'sum'})
    """

    def __init__(self, metrics: Collection[Metric] = ()) -> None:
        self._known = {id(metric) for metric in metrics}
        self._logged: dict[tuple[str, bool], _Values | Metric] = {}
        self.batch_samples: int | None = None
        self.given_samples: int | None = None

    def reset(self) -> None:
        """Forget everything."""
        self._reset_metrics()
        self._logged.clear()
        self.batch_samples = self.given_samples = None

    def log(self, batch: Any, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Add a value that the module logs while it works on ``batch`` (None between batches).

        The arguments are those of ``LightningModule.log``. ``reduce_fx`` and ``batch_size`` act; the others only say
        where a Trainer would show the value. Does not wait for the device.

        Raises:
            ModuleError: the value is neither a number nor a torchmetric of the module, or ``reduce_fx`` is not mean,
                sum, min or max, or ``on_step`` and ``on_epoch`` are both false.
        """
        given = _LOG.bind(None, name, value, *args, **kwargs).arguments
        if given.get("on_step") is False and given.get("on_epoch") is False:
            raise ModuleError(f"log({name!r}): on_step=False and on_epoch=False together log nothing")
        key = name, batch is not None
        if isinstance(value, Metric):
            if id(value) not in self._known:
                kind = type(value).__name__
                raise ModuleError(f"log({name!r}): {kind} is not an attribute of the module; make it one in __init__")
            self._logged[key] = value
            return
        reduction = _reduction(name, given.get("reduce_fx", "mean"))
        values = self._logged.setdefault(key, _Values(reduction))
        if not isinstance(values, _Values) or values.reduction != reduction:
            raise ModuleError(f"log({name!r}) is called with different kinds of values or reductions; use two names")
        weight = self._weight(batch, given.get("batch_size")) if reduction == "mean" else 1
        values.add(_number(name, value), weight)

    def log_dict(self, log: Callable[..., None], dictionary: Any, *args: Any, **kwargs: Any) -> None:
        """Call ``log`` for every entry; the arguments are those of ``LightningModule.log_dict``."""
        given = _LOG_DICT.bind(None, dictionary, *args, **kwargs).arguments
        settings = {key: value for key, value in given.items() if key not in ("self", "dictionary")}
        # A MetricCollection names its metrics by its prefix, and need not copy their states.
        entries = dictionary.items(copy_state=False) if isinstance(dictionary, MetricCollection) else dictionary.items()
        for name, value in entries:
            log(name, value, **settings)

    def compute(self) -> dict[str, float]:
        """Return all values as floats and reset the torchmetrics. The only method that waits for the device.

        Raises:
            ModuleError: a torchmetric computes something else than one number.
        """
        computed: dict[str, float] = {}
        for (name, _), logged in self._logged.items():
            value = logged.compute()
            computed[name] = float(_number(name, value) if isinstance(logged, Metric) else value)
        self._reset_metrics()
        return computed

    @property
    def reductions(self) -> dict[str, str]:
        """How the clients' values are reduced, for names that are not means: sum, min or max."""
        kinds = {name: getattr(logged, "reduction", "mean") for (name, _), logged in self._logged.items()}
        return {name: kind for name, kind in kinds.items() if kind != "mean"}

    def _reset_metrics(self) -> None:
        for logged in self._logged.values():
            if isinstance(logged, Metric):
                logged.reset()

    def _weight(self, batch: Any, batch_size: Any) -> Any:
        if batch is None and batch_size is None:
            return 1
        weight = samples_in(batch) if batch_size is None else batch_size
        self.batch_samples = weight
        self.given_samples = self.given_samples if batch_size is None else batch_size
        return weight


class LoggedCalls(Meter):
    """Notes what a step logs, so that it can be logged again with new values in the same tensors.

    Args:
        meter: gets the calls too; None for none.

    Attributes:
        calls: name, value, and the other arguments of each call of ``log``.
        problem: why the calls cannot be repeated, None if they can.
    """

    def __init__(self, meter: Meter | None = None) -> None:
        super().__init__()
        self.meter = meter
        self.calls: list[tuple[str, Tensor, tuple[Any, ...], dict[str, Any]]] = []
        self.problem: str | None = None

    def log(self, batch: Any, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Note a call."""
        if isinstance(value, Tensor):
            # A parameter or buffer may change before the step ends.
            value, args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.detach().clone(), (value, args, kwargs))
            self.calls.append((name, value, args, kwargs))
        else:
            self.problem = f"logs {name}, which is no tensor"
        if self.meter is not None:
            self.meter.log(batch, name, value, *args, **kwargs)

    def values(self) -> list[Any]:
        """Everything that is logged: tensors, names and settings."""
        return tree_leaves(self.calls)


class _Values:
    """The values of one name: their sum and weight, or their smallest or largest.

    Args:
        reduction: mean, sum, min or max.
    """

    def __init__(self, reduction: str) -> None:
        self.reduction = reduction
        self.total: Any = None
        self.weight: Any = 0

    def add(self, value: float | Tensor, weight: Any) -> None:
        """Add a value; ``weight`` is 1 but for means."""
        self.weight = self.weight + weight
        if self.reduction in ("mean", "sum"):
            self.total = (0.0 if self.total is None else self.total) + value * weight
        else:
            # The first value is copied: it may be a parameter, which the next steps change.
            self.total = _extreme(self.reduction, value if self.total is None else self.total, value)

    def compute(self) -> float:
        """The reduced value; NaN for a mean without samples."""
        total = float(self.total)
        if self.reduction != "mean":
            return total
        return total / float(self.weight) if self.weight else math.nan


def reduce_clients(reduction: str, values: Collection[float], weights: Collection[float]) -> float:
    """Reduce the values of clients with these weights, such as their numbers of training samples.

    A mean is weighted; a sum, minimum or maximum is that over all clients.

    >>> reduce_clients("mean", [1.0, 4.0], [2, 1]), reduce_clients("max", [1.0, 4.0], [2, 1])
    (2.0, 4.0)
    """
    reduced = _Values(reduction)
    for value, weight in zip(values, weights, strict=True):
        reduced.add(value, weight if reduction == "mean" else 1)
    return reduced.compute()


def _extreme(reduction: str, first: float | Tensor, second: float | Tensor) -> Tensor:
    """The smaller or the larger of two numbers; NaN if one is."""
    one, two = (
        value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64) for value in (first, second)
    )
    return torch.minimum(one, two) if reduction == "min" else torch.maximum(one, two)


def _reduction(name: str, reduce_fx: Any) -> str:
    """The name of Lightning's reduction ``reduce_fx``, itself a name or a function."""
    kind = REDUCTIONS.get(reduce_fx.lower() if isinstance(reduce_fx, str) else reduce_fx)
    if kind is None:
        given = repr(reduce_fx) if isinstance(reduce_fx, str) else getattr(reduce_fx, "__name__", repr(reduce_fx))
        raise ModuleError(f"log({name!r}): reduce_fx is {given}; give mean, sum, min or max, or log a torchmetric")
    return kind


def _number(name: str, value: Any) -> float | Tensor:
    """``value`` as a number or as a tensor of one number, detached, in single precision at least."""
    if isinstance(value, Tensor) and value.numel() == 1:
        # Sums in half precision soon stop growing.
        return value.detach().squeeze() if value.dtype == torch.float64 else value.detach().float().squeeze()
    if isinstance(value, SupportsFloat) and not isinstance(value, Tensor):
        return float(value)
    kind = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
    raise ModuleError(f"log({name!r}): {kind} is not a number")


@contextmanager
def unsynchronized_metrics(module: nn.Module) -> Iterator[None]:
    """Let the module's torchmetrics count only what this process has seen, inside the ``with`` block.

    By default ``compute`` joins the states of all processes. That suits one model on parts of the data; in a federated
    run every process has another client or another model.
    """
    before = {part: part.distributed_available_fn for part in module.modules() if isinstance(part, Metric)}
    for metric in before:
        metric.distributed_available_fn = _not_distributed
    try:
        yield
    finally:
        for metric, available in before.items():
            metric.distributed_available_fn = available


def _not_distributed() -> bool:
    """Tell a metric that there are no other processes. A named function, because a module may be pickled meanwhile."""
    return False
