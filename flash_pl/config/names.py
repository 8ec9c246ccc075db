"""Errors about unknown keys and names; the hint is the nearest known name, or the new name of a renamed one."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from flash_pl.errors import ConfigError, as_yaml

# Old names and their new names: keys of the top level, init args, fragments by folder, classes.
RENAMED_KEYS = {"method": "scheduler", "average": "round_average", "cost": "wire"}
RENAMED_INIT_ARGS = {"initialise": "initialize", "layers": "redistribution"}
RENAMED_FRAGMENTS = {
    "voter": {"average": "magnitude", "aggregate": "magnitude_aggregate"},
    "layer_budget": {"average": "mean"},
}
RENAMED_CLASSES = {
    "flash_pl.callbacks.Board": "flash_pl.callbacks.TensorBoard",
    "flash_pl.callbacks.FaultLog": "flash_pl.callbacks.ErrorLog",
    "flash_pl.server.AverageBudget": "flash_pl.server.MeanBudget",
    "flash_pl.server.Keep": "flash_pl.server.KeepMask",
    "flash_pl.sparsity.Given": "flash_pl.sparsity.GivenDensities",
}


def with_article(noun: str) -> str:
    """
    >>> with_article("Interval"), with_article("Move")
    ('an Interval', 'a Move')
    """
    return f"{'an' if noun[:1] in 'AEIOU' else 'a'} {noun}"


def one_of(name: object, known: Iterable[str], many: str = "") -> str:
    """The hint for an unknown ``name``: the ``known`` ones and the nearest of them.

    Args:
        many: the hint where there are too many known names to list them, and none is near.

    >>> one_of("digit", ["digits", "mnist"])
    'choose one of digits, mnist (did you mean digits?)'
    """
    known = list(known)
    nearest = get_close_matches(str(name), known, n=1)
    guess = f"did you mean {nearest[0]}?" if nearest else ""
    if len(known) < (12 if nearest else 30):
        return f"choose one of {', '.join(known)}" + (f" ({guess})" if guess else "")
    return guess or many


def unknown_key(key: str, known: Iterable[str], described: Sequence[str] = ()) -> ConfigError:
    """The error about a ``key`` that does not exist.

    Args:
        key: dotted name in the config.
        known: the keys that exist beside it.
        described: keys whose meaning has the words of ``key``; the hint where no known key is spelled alike.

    >>> str(unknown_key("trainer.eval_evry", ["eval_every", "eval_last"]))
    'trainer.eval_evry: there is no such key; choose one of eval_every, eval_last (did you mean eval_every?)'
    >>> str(unknown_key("average", ["rounds"]))
    'average: this key was renamed; use round_average'
    """
    known = list(known)
    section, _, name = key.rpartition(".")
    if key in RENAMED_KEYS:
        return ConfigError(key, "this key was renamed", f"use {RENAMED_KEYS[key]}")
    if RENAMED_INIT_ARGS.get(name) in known:
        return ConfigError(key, "this key was renamed", f"use {section}.{RENAMED_INIT_ARGS[name]}")
    if not known:
        return ConfigError(key, "there is no such key", "nothing can be set here")
    if described and not get_close_matches(name, known, n=1):
        return ConfigError(key, "there is no such key", f"did you mean {' or '.join(described)}?")
    return ConfigError(key, "there is no such key", one_of(name, known, "see flash-pl fit --help"))


def unknown_fragment(key: str, name: object, folder: str, known: Iterable[str]) -> ConfigError:
    """The error about the value ``name`` of ``key``, which is no fragment of ``folder``.

    >>> str(unknown_fragment("scheduler.voter", "average", "voter", []))
    "scheduler.voter: 'average' was renamed; use magnitude"
    """
    renamed = RENAMED_FRAGMENTS.get(folder, {}).get(str(name))
    if renamed is not None:
        return ConfigError(key, f"{as_yaml(name)} was renamed", f"use {renamed}")
    return ConfigError(key, f"{as_yaml(name)} is not a known name", one_of(name, known))


def unknown_class(key: str, class_path: object, known: Iterable[str]) -> ConfigError:
    """The error about the path of a class whose module has no such class.

    >>> str(unknown_class("model.class_path", "flash_pl.models.MPL", ["MLP"]))
    "model.class_path: 'flash_pl.models.MPL' is not a class or function of flash_pl.models; choose one of MLP (did you
    mean MLP?)"
    """
    module, _, name = str(class_path).rpartition(".")
    return ConfigError(key, f"{as_yaml(class_path)} is not a class or function of {module}", one_of(name, known))
