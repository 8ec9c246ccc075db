"""The typed keys of an experiment: meaning, default and what is allowed."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from flash_pl.client import BACKENDS
from flash_pl.config.signature import describe, one_of
from flash_pl.errors import ConfigError
from flash_pl.launch import PRECISIONS
from flash_pl.wire import VALUE_TYPES


def _key(default: Any, help: str, allowed: str = "", valid: Callable[[Any], bool] = lambda value: True) -> Any:
    return field(default=default, metadata={"help": help, "allowed": allowed, "valid": valid})


def _count(default: int | None, help: str, least: int = 1) -> Any:
    return _key(default, help, f"an integer of at least {least}", lambda value: value >= least)


def _positive(default: float, help: str) -> Any:
    return _key(default, help, "a number above 0", lambda value: 0 < value < float("inf"))


def _choice(default: str, help: str, *choices: str) -> Any:
    return _key(default, help, f"one of {', '.join(choices)}", lambda value: value in choices)


def _fraction(default: Any, help: str) -> Any:
    return _key(default, help, "a number in (0, 1]", lambda value: 0 < value <= 1)


def _are_devices(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(index) is int and index >= 0 for index in value)
    return value == "auto" or (type(value) is int and value >= 1)


DEVICES = "an integer of at least 1, auto, or a list of GPU numbers"


@dataclass
class TrainerKeys:
    """How the machine trains; nothing here is part of the method."""

    accelerator: str = _choice("auto", "where to compute", "auto", "cpu", "gpu", "cuda", "mps")
    devices: Any = _key(1, "processes on this machine, one per device; auto, or a list of GPUs", DEVICES, _are_devices)
    num_nodes: int = _count(1, "machines")
    strategy: str = _choice("auto", "as in Lightning; both spread the clients over the processes", "auto", "ddp")
    precision: str = _choice("32-true", "as in Lightning", *PRECISIONS)
    eval_every: int = _count(1, "rounds between two evaluations")
    eval_last: int = _count(1, "rounds at the end that are all evaluated")
    eval_clients_every: int | None = _count(
        None, "rounds between two evaluations of every client; 0 for one at the end, null for none", least=0
    )
    finetune_epochs: int = _count(0, "epochs for which a client trains on before it is evaluated once more", least=0)
    checkpoint_every: int = _count(10, "rounds between two checkpoints; 0 for the best and the last only", least=0)
    gradient_clip_val: float | None = _positive(None, "clip gradients at this value; null for never")  # type: ignore[arg-type]
    gradient_clip_algorithm: str = _choice("norm", "what is clipped", "norm", "value")
    channels_last: bool = _key(True, "memory format of convolutions; usually faster")
    backend: str = _choice("auto", "kernels of the layers: auto uses sparse ones where they are faster", *BACKENDS)
    compile: bool = _key(False, "let torch compile the dense layers; not with backend=sparse")
    deterministic: bool = _key(True, "on CUDA, only kernels that repeat their bits, where torch has them")
    threads: int | None = _count(1, "CPU threads of a process; other numbers, other last bits; null leaves it to torch")
    timeout: float = _positive(1800.0, "seconds after which a process that does not answer ends the run")
    on_client_error: str = _choice("raise", "what a client that fails does to the run", "raise", "skip")
    min_clients: int = _count(1, "with skip: a round in which clients fail and fewer remain is repeated")
    round_attempts: int = _count(3, "with skip: how often a round is tried before the run ends")
    monitor: str = _key("val_acc", "the metric that result.json calls accuracy and best.ckpt goes by")
    monitor_mode: str = _choice("max", "which of its values is the best", "max", "min")
    lr_delay: int = _count(0, "rounds by which the learning rate's decay lags", least=0)
    progress: bool = _key(True, "show a progress bar in a terminal")


@dataclass
class WireKeys:
    """What is sent between server and clients, and counted; only ``values`` changes what is trained."""

    values: str = _choice("fp32", "type of the active weights on the wire; shorter ones arrive rounded", *VALUE_TYPES)
    compress: bool = _key(False, "also try a compressed bitmap for the mask; slower")
    verify: bool = _key(False, "clients train on what was decoded from the bytes; the result is the same")


@dataclass
class Keys:
    """A whole experiment. Components (``data``, ``model``, ...) are a shipped fragment's name or name a class."""

    data: Any = _key("digits", "data set; data.root=..., data.partition=iid and the like refine it")
    model: Any = _key(None, "network; null for the data set's own")
    density: float = _fraction(0.05, "share of weights that stay, over all that may be masked")
    clients: int | None = _count(100, "number of clients N; null for the data's natural ones")
    cohort: int = _count(10, "clients per round K")
    rounds: int = _count(100, "communication rounds R")
    local_epochs: int = _count(1, "epochs that a client trains in a round")
    batch_size: int = _count(32, "of the clients' training")
    lr: float = _positive(0.1, "learning rate of round 0")
    lr_end: float = _positive(0.001, "learning rate after lr_horizon rounds, reached exponentially")
    lr_horizon: int = _count(1000, "rounds of that decay, whatever rounds is")
    alpha: float = _positive(1.0, "Dirichlet concentration of the partition; 1000 is nearly IID")
    seed: int = _count(1, "names every random draw", least=0)
    compat: str | None = _key(None, "official: the choices of the FLASH authors' code")
    run_dir: str = _key("runs/{data}-{scheduler}-d{density}-s{seed}", "what a run writes; numbered if taken")
    ckpt_path: str | None = _key(None, "checkpoint from which to go on; last for the newest whole one in run_dir")
    scheduler: Any = _key(None, "the method's settings, e.g. scheduler.prune_rate=0.3")
    budget: Any = _key("by_share", "what clients can afford; tiers for classes of devices, see budget.tiers")
    aggregator: Any = _key(None, "how clients are averaged; null for the method's own, masked if there are tiers")
    server_optimizer: Any = _key(None, "how the server moves on from the clients' mean; null takes the mean")
    round_average: Any = _key(None, "what of the rounds is deployed; null for the last round's model")
    sampler: Any = _key("uniform", "how a cohort is drawn")
    fleet: Any = _key(None, "devices whose time is simulated, with a fleet.deadline; null for none")
    trainer: TrainerKeys = field(default_factory=TrainerKeys, metadata={"help": "machine, evaluation, checkpoints"})
    wire: WireKeys = field(default_factory=WireKeys, metadata={"help": "bytes on the wire"})


@dataclass(frozen=True)
class Key:
    """One typed key."""

    hint: Any
    default: Any
    help: str
    allowed: str
    valid: Callable[[Any], bool]


def _flatten(cls: type, prefix: str = "") -> Iterator[tuple[str, Key]]:
    hints = get_type_hints(cls)
    for item in fields(cls):
        name, hint, about = prefix + item.name, hints[item.name], item.metadata
        default = None if item.default is MISSING else item.default
        yield name, Key(hint, default, about["help"], about.get("allowed", ""), about.get("valid", lambda value: True))
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _flatten(hint, f"{name}.")


# Lets a fragment say a part of another key: ${times:0.5,${density}}.
OmegaConf.register_resolver("times", lambda factor, value: float(factor) * float(value), replace=True)

KEYS: dict[str, Key] = dict(_flatten(Keys))  # by dotted name, such as "trainer.eval_every"


def typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults to ``values``, convert to the keys' types and resolve interpolations.

    Raises:
        ConfigError: an unknown key, a value of the wrong type or out of range, an interpolation of a missing key.
    """
    resolved = _converted(values, resolve=True)
    for name, value in _leaves(resolved):
        key = KEYS[name]
        if value is not None and not key.valid(value):
            raise ConfigError(name, value, key.allowed)
    return resolved


def referring(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same with the interpolations as they are, unchecked."""
    return _converted(values, resolve=False)


def resolve(config: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A complete config that was read from the file at ``path``, its interpolations resolved and nothing else.

    Raises:
        ConfigError: one of them leads nowhere.
    """
    try:
        resolved = OmegaConf.to_container(OmegaConf.create(dict(config)), resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError("config", path, f"references to keys that it has ({str(error).splitlines()[0]})") from error
    return {str(name): value for name, value in dict(resolved).items()}  # type: ignore[arg-type]


def _converted(values: Mapping[str, Any], resolve: bool) -> dict[str, Any]:
    for name, value in _leaves(values):
        _refuse_unknown(name, value)
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Keys), values)
        config = OmegaConf.to_container(merged, resolve=resolve, throw_on_missing=True)
    except InterpolationResolutionError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            str(error.full_key), "${...}", f"a reference to a key with a fitting value ({reason})"
        ) from error
    except OmegaConfBaseException as error:
        name = str(error.full_key)
        name = name if name in KEYS else name.partition(".")[0]  # it may be inside a component
        raise ConfigError(name, getattr(error, "value", None), describe(KEYS[name].hint)) from error
    return {str(name): value for name, value in dict(config).items()}  # type: ignore[arg-type]


def _below(section: str) -> list[str]:
    """The keys of a section; those of the top level for ``""``."""
    return [name.rpartition(".")[2] for name in KEYS if name.rpartition(".")[0] == section]


def _leaves(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All (dotted name, value) of the sections; a component is one value."""
    if isinstance(node, Mapping) and (not name or _below(name) or name == "wire"):
        for key, value in node.items():
            yield from _leaves(value, f"{name}.{key}" if name else str(key))
    else:
        yield name, node


def _refuse_unknown(name: str, value: Any) -> None:
    section, _, key = name.rpartition(".")
    if name not in KEYS:
        known = _below(section)
        raise ConfigError(name, value, one_of(key, known, "a known key") if known else "no keys here yet")
    if is_dataclass(KEYS[name].hint):
        raise ConfigError(name, value, f"a mapping with keys of {', '.join(_below(name))}")
