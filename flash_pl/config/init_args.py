"""The init args of a class with those of its base classes, as source code declares them: nothing is imported.

``signature.py`` says the same of a class that is imported, and ``tests/config/test_init_args.py`` compares them.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from flash_pl.config.declared import ROOT, parameters_of
from flash_pl.config.docstrings import read_args
from flash_pl.config.ranges import ranges_of

WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "None": "null"}
LISTS, MAPPINGS = {"list", "tuple", "Sequence", "Iterable"}, {"dict", "Mapping"}
REFERRING = "as in ``"  # how a help text begins that refers to that of another class


@dataclass(frozen=True)
class InitArg:
    """An init arg of a class.

    Attributes:
        kind: the values that fit, in words; empty if the source has no type hint.
        default: as in the source; None if the argument is required.
        help: its text under ``Args:``; empty without one.
        range: the values that the class accepts, in words; empty if no check in its source says it.
    """

    kind: str
    default: str | None
    help: str
    range: str


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
    >>> rate.kind, rate.default, rate.help, rate.range
    ('a number', '0.25', 'p, in (0, 1].', 'in (0, 1]')
    >>> init_args("torch.nn.Linear")
    {}
    """
    definition = find(class_path)
    if definition is None:
        return {}
    ancestors = list(dict.fromkeys(_with_bases(definition)))
    texts = _texts(ancestors)
    ranges = {name: words for one in reversed(ancestors) for name, words in ranges_of(one.node).items()}
    found: dict[str, InitArg] = {}
    for one in _taking_arguments(ancestors):
        for name, hint, value in parameters_of(one.node):
            if not _is_set_inside(hint, value):
                kind, default = _in_words(hint, one.module), None if value is None else _default(value)
                found.setdefault(name, InitArg(kind, default, texts.get(name, ""), ranges.get(name, "")))
    return found


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
def _source(module: str) -> ast.Module | None:
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8")) if file.is_file() else None


def _with_bases(definition: Definition) -> Iterator[Definition]:
    """A class, then its base classes in flash_pl."""
    yield definition
    for base in definition.node.bases:
        above = find(f"{definition.module}.{ast.unparse(base)}")
        if above is not None:
            yield from _with_bases(above)


def _taking_arguments(ancestors: list[Definition]) -> Iterator[Definition]:
    """The classes whose ``__init__`` gets the arguments, from the class itself to its last base class."""
    for one in ancestors:
        if one.init is not None or one.is_dataclass:
            yield one
        if one.init is not None and one.init.args.kwarg is None:
            return


def _texts(ancestors: list[Definition]) -> dict[str, str]:
    """The help text of each argument: that of the nearest docstring, in which ``as in ``Base``` stands for Base's."""
    texts: dict[str, str] = {}
    for one in reversed(ancestors):
        for name, text in read_args(ast.get_docstring(one.node)).items():
            if name in texts and (rest := text.removeprefix(REFERRING)) != text:
                meaning = texts[name].split(", by default")[0].rstrip(".")  # what follows may be another default
                own = rest.partition("``")[2]
                text = texts[name] if own == "." else meaning + own
            texts[name] = text
    return texts


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
    return WORDS.get(name, "a path" if name == "Path" else f"a {name}")


def _alias(name: str, module: str) -> tuple[ast.expr, str] | None:
    """What a module calls ``name``, as in ``Norm = Literal["batch", "group"]``, and the module that says so."""
    tree = _source(module)
    for node in tree.body if tree else ():
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [name]:
            return node.value, module
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            return _alias(name, str(node.module)) if str(node.module).startswith("flash_pl") else None
    return None
