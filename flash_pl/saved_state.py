"""What a checkpoint holds: every key with the kind of its value, and the check of a state against that.

A digest says that a file is whole; it does not say that another program, or another version, wrote what is read here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flash_pl.errors import ConfigError, as_yaml, shortened


@dataclass(frozen=True)
class Array:
    """A tensor.

    Args:
        dtype: of its elements; "float" stands for any floating dtype.
        shape: an integer, the name of a size, or "*" for any size, for each dimension; None for any shape.
    """

    dtype: torch.dtype | str
    shape: tuple[int | str, ...] | None = None

    def __str__(self) -> str:
        shape = "" if self.shape is None else f" of shape [{', '.join(map(str, self.shape))}]"
        return f"a tensor of {str(self.dtype).removeprefix('torch.')}{shape}"


@dataclass(frozen=True)
class Keys:
    """A dictionary with these keys; it may have others too.

    Args:
        required: by name.
        optional: keys that need not be there.
    """

    required: Mapping[str, Any]
    optional: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MapOf:
    """A dictionary of any keys of one class."""

    key: type
    value: Any


@dataclass(frozen=True)
class ListOf:
    """A list, of any length or of the size with this name."""

    item: Any
    length: str | None = None


@dataclass(frozen=True)
class OneOf:
    """A value of one of several kinds."""

    choices: tuple[Any, ...]


COUNT, NUMBER, ANYTHING = "a number of 0 or more", "a number", "anything"
WORDS = {bool: "true or false", str: "a text", None: "null"}


def check_state(value: Any, kind: Any, key: str, sizes: dict[str, int] | None = None) -> None:
    """Check the value at the dotted ``key`` of a checkpoint.

    Args:
        kind: a class above, a list of kinds for a list of this length, or a constant above.
        sizes: of tensors, by name; the first tensor that has a dimension of another name sets the size of that name.

    >>> kind = Keys({"weights": Array("float", ("n",)), "mask": Array(torch.bool, ("n",))})
    >>> check_state({"weights": torch.zeros(3), "mask": torch.ones(4, dtype=torch.bool)}, kind, "server")
    Traceback (most recent call last):
    flash_pl.errors.ConfigError: ckpt_path: the checkpoint has another structure (server.mask: a tensor of bool of \
shape [4] is not a tensor of bool of shape [3])

    Raises:
        ConfigError: it is of another kind.
    """
    sizes = {} if sizes is None else sizes
    if isinstance(kind, OneOf):
        if not any(_fits(value, choice, dict(sizes)) for choice in kind.choices):
            check_state(value, kind.choices[0], key, sizes)
    elif isinstance(kind, Keys):
        _check(isinstance(value, dict), value, "a dictionary", key)
        for name in kind.required.keys() - value.keys():
            raise other_structure(f"{key}.{name}", "it is missing")
        for name, part in {**kind.required, **kind.optional}.items():
            if name in value:
                check_state(value[name], part, f"{key}.{name}".lstrip("."), sizes)
    elif isinstance(kind, MapOf):
        _check(isinstance(value, dict), value, "a dictionary", key)
        for name, item in value.items():
            _check(type(name) is kind.key, name, f"a key of class {kind.key.__name__}", key)
            check_state(item, kind.value, f"{key}.{name}", sizes)
    elif isinstance(kind, ListOf | list):
        kinds = kind if isinstance(kind, list) else [kind.item] * len(value) if isinstance(value, list) else []
        words = f"a list of {len(kind)}" if isinstance(kind, list) else "a list"
        if isinstance(kind, ListOf) and kind.length in sizes:
            words, length = f"a list of {sizes[kind.length]}", sizes[kind.length]
            _check(isinstance(value, list | tuple) and len(value) == length, value, words, key)
        _check(isinstance(value, list | tuple) and len(value) == len(kinds), value, words, key)
        for index, (item, part) in enumerate(zip(value, kinds, strict=True)):
            check_state(item, part, f"{key}[{index}]", sizes)
    elif isinstance(kind, Array):
        _check_array(value, kind, key, sizes)
    elif kind in (COUNT, NUMBER):
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_right = is_number if kind is NUMBER else type(value) is int and 0 <= value < 2**63
        _check(is_right, value, kind, key)
    elif kind is not ANYTHING:
        _check(value is None if kind is None else type(value) is kind, value, WORDS[kind], key)


def _check_array(value: Any, kind: Array, key: str, sizes: dict[str, int]) -> None:
    known = kind if kind.shape is None else Array(kind.dtype, tuple(sizes.get(str(size), size) for size in kind.shape))
    is_right = type(value) is Tensor and value.layout is torch.strided and value.device.type == "cpu"
    if is_right:
        is_right = value.is_floating_point() if kind.dtype == "float" else value.dtype == kind.dtype
        if known.shape is not None:
            pairs = list(zip(known.shape, value.shape, strict=False))
            is_right &= value.ndim == len(known.shape)
            is_right &= all(isinstance(size, str) or size == actual for size, actual in pairs)
            if is_right:
                sizes |= {str(size): actual for size, actual in pairs if isinstance(size, str) and size != "*"}
    _check(is_right, value, str(known), key)


def _fits(value: Any, kind: Any, sizes: dict[str, int]) -> bool:
    try:
        check_state(value, kind, "", sizes)
    except ConfigError:
        return False
    return True


def _check(is_right: bool, value: Any, words: str, key: str) -> None:
    if not is_right:
        found = str(Array(value.dtype, tuple(value.shape))) if isinstance(value, Tensor) else as_yaml(value)
        raise other_structure(key, f"{found} is not {words}")


def other_structure(key: str, problem: str) -> ConfigError:
    """The error about the value at the dotted ``key`` of a checkpoint."""
    problem = f"the checkpoint has another structure ({shortened(key.lstrip('.'))}: {problem})"
    return ConfigError("ckpt_path", problem)


DIMENSIONS = 64  # of a tensor; torch has no more

# The kinds of a checkpoint's values. Names of sizes: all values of the arena, those that have a mask, masks, bytes.

BEST = OneOf((NUMBER, None))
SERVER = Keys(
    {
        "layout": ListOf([str, str, ListOf(COUNT), ListOf(COUNT)]),
        "weights": Array("float", ("size",)),
        "mask": Array(torch.bool, ("maskable",)),
        "union": Array("float", ("size",)),
    },
    {"round_average": Array("float", ("size",)), "costs": Array(torch.float64, ("layers",))},
)
LEDGER = Keys(
    {
        "link": Keys({"size": COUNT, "masks": Array(torch.uint8, ("masks", "bytes")), "of": MapOf(int, COUNT)}),
        "totals": Keys({"bytes_up": NUMBER, "bytes_down": NUMBER, "flops": NUMBER}),
    },
    {"clock": Keys({"total": NUMBER})},
)
LOOP = Keys(
    {
        "identity": Keys({"scheduler": str, "seed": COUNT, "density": NUMBER, "density_of": str, "clients": COUNT}),
        "round": COUNT,
        "failed": COUNT,
        "metrics": MapOf(str, NUMBER),
        "votes": ListOf(COUNT),
        "layer_mismatch": MapOf(str, ListOf(NUMBER)),
        "has_mask": bool,
        "evaluation_pending": bool,
        "stopped": bool,
        "tier_masks": ListOf(Array(torch.bool, ("maskable",))),
        "densities": ListOf(NUMBER),
        "first_stage": Keys({"flops": MapOf(int, NUMBER), "accumulator": OneOf((Array(torch.int64), None))}),
        "server": SERVER,
        "ledger": LEDGER,
        "machine": MapOf(str, OneOf((str, COUNT, bool))),
        "extra": Keys(
            {}, {"config": OneOf((MapOf(str, ANYTHING), None)), "names": MapOf(str, str), "network_prefix": str}
        ),
    },
    {
        "best": BEST,
        "best_of": [str, NUMBER],
        **{name: Keys({}) for name in ("scheduler", "voter", "sampler", "aggregator", "server_optimizer")},
    },
)
CHECKPOINT = Keys(
    {"flash_pl": LOOP, "state_dict": MapOf(str, ANYTHING)},
    {
        "accuracy_by_cost": MapOf(str, Array(torch.float64, ("*",))),
        "best_so_far": BEST,
        "held_scalars": MapOf(str, Array(torch.float64, (3,))),
        "logger_runs": ListOf([str, str]),
        "early_stopping": Keys({"of": [str, NUMBER], "best": BEST, "waited": COUNT}),
    },
)


def check_checkpoint(state: dict[str, Any], path: object) -> None:
    """Check the content of the checkpoint file at ``path``: all values that do not belong to a component.

    Raises:
        ConfigError: names the first value that is of another kind, or does not fit the others.
    """
    try:
        _check_checkpoint(state)
    except ConfigError as error:
        problem = error.problem.replace("the checkpoint", as_yaml(str(path)), 1)
        raise ConfigError(error.key, problem) from error


def _check_checkpoint(state: dict[str, Any]) -> None:
    sizes: dict[str, int] = {}
    server = state["flash_pl"].get("server")
    layout: Any = server.get("layout") if isinstance(server, dict) else None
    if _fits(layout, SERVER.required["layout"], {}):
        if any(len(shape) > DIMENSIONS for _, _, shape, _ in layout):
            raise other_structure("flash_pl.server.layout", f"a tensor has more than {DIMENSIONS} dimensions")
        sizes["maskable"] = sum(math.prod(shape) for _, kind, shape, _ in layout if kind == "maskable")
    check_state(state, CHECKPOINT, "", sizes)
    saved = state["flash_pl"]
    if len(saved["densities"]) != len(saved["tier_masks"]) + 1 and saved["has_mask"]:
        raise other_structure("flash_pl.densities", "there is not one for each of tier_masks and one for the mask")
    link, clients, key = saved["ledger"]["link"], saved["identity"]["clients"], "flash_pl.ledger.link"
    if link["of"]:
        if link["size"] != sizes["maskable"] or sizes["bytes"] != -(-link["size"] // 8):
            raise other_structure(f"{key}.masks", f"they are not of {sizes['maskable']} weights")
        if max(link["of"].values()) >= sizes["masks"] or not 0 <= min(link["of"]) <= max(link["of"]) < clients:
            raise other_structure(f"{key}.of", "it names a client or a mask that does not exist")
