"""The parameters of a class of flash_pl as its source declares them: nothing is imported."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_pl.config.docstrings import read_args

BUILT_IN = {"int", "float", "bool", "str", "list", "dict", "tuple"}
ROOT = Path(__file__).parents[2]  # the folder with flash_pl


@dataclass(frozen=True)
class Declared:
    """A parameter of a class.

    Attributes:
        annotation: its type hint in the source; None without one.
        value: its default in the source; None if it is required.
        help: its text under ``Args:``; empty without one.
    """

    annotation: ast.expr | None
    value: ast.expr | None
    help: str

    def hint(self) -> Any:
        """The type hint, which may name built-in types and ``Any``; another one raises a ``NameError``."""
        return Any if self.annotation is None else eval(ast.unparse(self.annotation), {"Any": Any})

    def default(self) -> Any:
        """The default, which must be a literal; None if the parameter is required."""
        return None if self.value is None else ast.literal_eval(self.value)


def declared(class_path: str, root: Path = ROOT) -> dict[str, Declared]:
    """The parameters of a class by name: those of its ``__init__``, else the fields of a dataclass.

    Those of base classes are left out.

    Args:
        class_path: module and name of the class; the module must be the one with its source.
        root: the folder in which the module is found.

    >>> rounds = declared("flash_pl.loops.settings.EvaluationSchedule")["eval_every"]
    >>> rounds.hint(), rounds.default(), rounds.help
    (<class 'int'>, 1, 'rounds between two evaluations of the server.')
    """
    module, _, name = class_path.rpartition(".")
    source = root.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    (found,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    texts = read_args(ast.get_docstring(found))
    return {name: Declared(hint, value, texts.get(name, "")) for name, hint, value in parameters_of(found)}


def built_in(hint: ast.expr | None) -> Any:
    """A type hint in source; ``Any`` if it names more than built-in types.

    >>> built_in(ast.parse("int | None", mode="eval").body), built_in(ast.parse("Move", mode="eval").body)
    (int | None, typing.Any)
    """
    names = {node.id for node in ast.walk(hint) if isinstance(node, ast.Name)} if hint is not None else {""}
    return eval(ast.unparse(hint)) if hint is not None and names <= BUILT_IN else Any


def unquoted(hint: ast.expr | None) -> ast.expr | None:
    """A type hint without the quotes that it may have, as a name that is defined later."""
    if isinstance(hint, ast.Constant) and isinstance(hint.value, str):
        return ast.parse(hint.value, mode="eval").body
    return hint


def parameters_of(found: ast.ClassDef) -> list[tuple[str, ast.expr | None, ast.expr | None]]:
    """Name, type hint and default of each parameter of a class, in source."""
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            takes = node.args
            positional = [*takes.posonlyargs, *takes.args]
            defaults = [*[None] * (len(positional) - len(takes.defaults)), *takes.defaults, *takes.kw_defaults]
            pairs = list(zip([*positional, *takes.kwonlyargs], defaults, strict=True))[1:]  # without the object itself
            return [(parameter.arg, unquoted(parameter.annotation), value) for parameter, value in pairs]
    fields = (node for node in found.body if isinstance(node, ast.AnnAssign))
    return [
        (node.target.id, unquoted(node.annotation), node.value) for node in fields if isinstance(node.target, ast.Name)
    ]
