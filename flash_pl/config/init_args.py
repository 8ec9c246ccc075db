"""The init args of a class with those of its base classes, as source code declares them: nothing is imported.

``signature.py`` says the same of a class that is imported, and ``tests/config/test_init_args.py`` compares them.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from flash_pl.config.declared import ROOT, built_in, parameters_of
from flash_pl.config.docstrings import read_args
from flash_pl.config.names import with_article
from flash_pl.config.ranges import Range, ranges_of

WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "None": "null"}
LISTS, MAPPINGS = {"list", "tuple", "Sequence", "Iterable"}, {"dict", "Mapping"}
WITHOUT_ARGUMENTS = {"object", "ABC", "Protocol", "Generic"}  # base classes that add no init args
REFERRING = "as in ``"  # how a help text begins that refers to that of another class


@dataclass(frozen=True)
class InitArg:
    """An init arg of a class.

    Attributes:
        hint: the type, if it is made of built-in ones; else ``Any``.
        kind: the values that fit, in words; empty if the source has no type hint.
        default: as in the source; None if the argument is required.
        help: its text under ``Args:``; empty without one.
        range: the values that the class accepts; None if no check in its source says it.
    """

    hint: Any
    kind: str
    default: str | None
    help: str
    range: Range | None

    @property
    def is_component(self) -> bool:
        """Whether nothing but an object of a class, or null, fits; a word can only be the name of a fragment."""
        return all(re.fullmatch(r"an? [A-Z]\w*|null", choice) for choice in self.kind.split(" or "))


@dataclass(frozen=True)
class Definition:
    """A class in the source of its module."""

    module: str
    node: ast.ClassDef

    @property
    def init(self) -> ast.FunctionDef | None:
        """The class's own ``__init__``."""
        return next((n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)

    @property
    def is_dataclass(self) -> bool:
        return any("dataclass" in ast.unparse(decorator) for decorator in self.node.decorator_list)


@cache
def init_args(class_path: str) -> dict[str, InitArg]:
    """The init args of a class of flash_pl by name; empty for a class of another package.

    ``**kwargs`` stand for the arguments of the base class, and a dataclass has the fields of its base classes.

    >>> rate = init_args("flash_pl.schedulers.JMWST")["prune_rate"]
    >>> rate.kind, rate.default, rate.help, rate.range.words
    ('a number', '0.25', 'p, in (0, 1].', 'in (0, 1]')
    >>> init_args("torch.nn.Linear")
    {}
    """
    definition = find(class_path)
    if definition is None:
        return {}
    ancestors = list(dict.fromkeys(_with_bases(definition)))
    texts = _texts(ancestors)
    ranges = {name: range for one in reversed(ancestors) for name, range in ranges_of(one.node).items()}
    found: dict[str, InitArg] = {}
    for one in _taking_arguments(ancestors):
        for name, hint, value in parameters_of(one.node):
            if not _is_set_inside(hint, value):
                kind, default = _in_words(hint, one.module), None if value is None else _default(value)
                found.setdefault(name, InitArg(built_in(hint), kind, default, texts.get(name, ""), ranges.get(name)))
    return found


@cache
def closed_init_args(class_path: str) -> dict[str, InitArg] | None:
    """The init args of a public class of flash_pl, if its source names all that it takes; else None.

    A class with ``**kwargs`` for a base class of another package takes more than that.

    >>> sorted(closed_init_args("flash_pl.schedulers.SPDST"))[:2], closed_init_args("torch.nn.Linear")
    (['first_mask', 'sensitivity'], None)
    """
    definition = None if "._" in class_path else find(class_path)
    if definition is None:
        return None
    last = list(_taking_arguments(list(dict.fromkeys(_with_bases(definition)))))[-1:]
    is_open = last and last[0].init is not None and last[0].init.args.kwarg is not None
    return None if is_open or not (last or _has_plain_bases(definition)) else init_args(class_path)


def _has_plain_bases(definition: Definition) -> bool:
    """Whether a class and its base classes in flash_pl have no base class elsewhere that may take arguments."""
    bases = (base for one in _with_bases(definition) for base in one.node.bases if _base(one, base) is None)
    return all(ast.unparse(base).partition("[")[0] in WITHOUT_ARGUMENTS for base in bases)


@cache
def ancestors_of(class_path: str) -> list[str]:
    """The names of a class of flash_pl and of its base classes in flash_pl.

    >>> ancestors_of("flash_pl.data.MNIST")
    ['MNIST', 'IdxData', 'StoredData', 'FederatedDataModule', 'PartitionedData']
    """
    definition = find(class_path)
    return [] if definition is None else list(dict.fromkeys(one.node.name for one in _with_bases(definition)))


@cache
def find(class_path: str) -> Definition | None:
    """The definition of a class; a package may import the class from the module that defines it.

    >>> find("flash_pl.schedulers.JMWST").module, find("flash_pl.schedulers.Jmwst"), find("torch.nn.Linear")
    ('flash_pl.schedulers.flash', None, None)
    """
    module, _, name = class_path.rpartition(".")
    if module.partition(".")[0] != "flash_pl" or not (tree := _source(module)):
        return None
    for node in ast.walk(tree):  # also below TYPE_CHECKING
        if isinstance(node, ast.ClassDef) and node.name == name:
            return Definition(module, node)
        if isinstance(node, ast.ImportFrom) and any((alias.asname or alias.name) == name for alias in node.names):
            return find(f"{node.module}.{name}")
    return None


@cache
def names_in(module: str) -> list[str]:
    """The names that a module or package of flash_pl defines or imports; empty if there is no such module.

    >>> "JMWST" in names_in("flash_pl.schedulers"), names_in("flash_pl.nowhere"), names_in("torch.nn")
    (True, [], [])
    """
    tree = _source(module) if module.partition(".")[0] == "flash_pl" else None
    top = tree.body if tree else []
    blocks = [node.body for node in top if isinstance(node, ast.If)]  # below TYPE_CHECKING
    return [name for node in [*top, *(node for block in blocks for node in block)] for name in _names(node)]


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


@cache
def _source(module: str) -> ast.Module | None:
    if not all(part.isidentifier() for part in module.split(".")):
        return None
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


def _with_bases(definition: Definition) -> Iterator[Definition]:
    """A class, then its base classes in flash_pl."""
    yield definition
    for base in definition.node.bases:
        above = _base(definition, base)
        if above is not None:
            yield from _with_bases(above)


def _base(definition: Definition, base: ast.expr) -> Definition | None:
    """The definition of a base class; None if it is not one of flash_pl."""
    return find(f"{definition.module}.{ast.unparse(base)}")


def _taking_arguments(ancestors: list[Definition]) -> Iterator[Definition]:
    """The classes whose ``__init__`` gets the arguments, from the class itself to its last base class."""
    for one in ancestors:
        if one.init is not None or one.is_dataclass:
            yield one
        if one.init is not None and one.init.args.kwarg is None:
            return


def _texts(ancestors: list[Definition]) -> dict[str, str]:
    """The help text of each argument: that of the nearest docstring, in which ``as in ``Other``` stands for Other's."""
    texts: dict[str, str] = {}
    for one in reversed(ancestors):
        for name, text in read_args(ast.get_docstring(one.node)).items():
            if (rest := text.removeprefix(REFERRING)) != text:
                other, _, own = rest.partition("``")
                of_other = texts.get(name) or _own_texts(one.module, other).get(name, "")
                meaning = of_other.split(", by default")[0].rstrip(".")  # what follows may be another default
                text = of_other if own == "." else meaning + own
            texts[name] = text
    return texts


def _own_texts(module: str, name: str) -> dict[str, str]:
    """The help texts in the docstring of a class that a module, or the package around it, knows by this name."""
    definition = find(f"{module}.{name}") or find(f"{module.rpartition('.')[0]}.{name}")
    return read_args(ast.get_docstring(definition.node)) if definition else {}


def _is_set_inside(hint: ast.expr | None, value: ast.expr | None) -> bool:
    """Whether ``__init__`` does not take a field of a dataclass."""
    constant = hint is not None and ast.unparse(hint).startswith("ClassVar")
    return constant or (isinstance(value, ast.Call) and "init=False" in ast.unparse(value))


def _default(value: ast.expr) -> str:
    """A default as a user writes it: that of a dataclass's field is inside of a call."""
    if isinstance(value, ast.Call) and ast.unparse(value.func) == "field":
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in value.keywords}
        return given.get("default") or f"{given.get('default_factory', '')}()"
    if isinstance(value, ast.Constant) and (value.value is None or isinstance(value.value, bool)):
        return {None: "null", True: "true", False: "false"}[value.value]
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return value.value or '""'
    text = ast.unparse(value)
    return f"[{text[1:-1].rstrip(',')}]" if isinstance(value, ast.Tuple) else text


def _in_words(hint: ast.expr | None, module: str) -> str:
    """The values that fit a type hint, in words.

    >>> _in_words(ast.parse("int | None", mode="eval").body, "flash_pl.models.small")
    'an integer or null'
    >>> _in_words(ast.parse("Norm", mode="eval").body, "flash_pl.models.large")
    "'batch' or 'group'"
    """
    if hint is None:
        return ""
    if isinstance(hint, ast.BinOp):
        return " or ".join(dict.fromkeys([_in_words(hint.left, module), _in_words(hint.right, module)]))
    name = ast.unparse(hint.value if isinstance(hint, ast.Subscript) else hint)
    if isinstance(hint, ast.Subscript) and name == "Literal":
        choices = hint.slice.elts if isinstance(hint.slice, ast.Tuple) else [hint.slice]
        return " or ".join(map(ast.unparse, choices))
    if name == "Any":
        return "a value"
    if (alias := _alias(name, module)) is not None:
        return _in_words(*alias)
    if name in LISTS or name in MAPPINGS:
        return "a list" if name in LISTS else "a mapping"
    return WORDS.get(name, "a path" if name == "Path" else with_article(name))


def _alias(name: str, module: str) -> tuple[ast.expr, str] | None:
    """What a module calls ``name``, as in ``Norm = Literal["batch", "group"]``, and the module that says so."""
    tree = _source(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value, module
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return _alias(name, str(node.module)) if str(node.module).startswith("flash_pl") else None
    return None
