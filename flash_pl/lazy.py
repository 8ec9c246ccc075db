"""Names of a package that are imported when they are first used, so that the import of the package takes no time.

The package imports the names under ``TYPE_CHECKING``, where type checkers, editors and the documentation see them. At
run time ``names_on_demand`` reads these lines, and no name is written twice.
"""

import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any


def names_on_demand(package: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    The package has the names that it imports under ``TYPE_CHECKING``, and its public modules: ``flash_pl.models`` is
    there without ``import flash_pl.models``.

    Args:
        package: the name of the package, ``__name__`` where this is called.

    >>> get, names = names_on_demand("flash_pl")
    >>> get("ConfigError"), get("signals").__name__, "ConfigError" in names()
    (<class 'flash_pl.errors.ConfigError'>, 'flash_pl.signals', True)
    >>> get("ConfigErorr")
    Traceback (most recent call last):
    AttributeError: module 'flash_pl' has no attribute 'ConfigErorr'
    """
    this = sys.modules[package]

    @cache
    def modules() -> dict[str, str]:
        with open(str(this.__file__), encoding="utf-8") as file:
            return imported_for_types(file.read())

    def get(name: str) -> Any:
        from importlib.util import find_spec

        value = None
        if not name.startswith("_"):  # Python asks for names like __path__
            if name in modules():
                value = getattr(import_module(modules()[name]), name)
            elif find_spec(f"{package}.{name}"):
                value = import_module(f"{package}.{name}")
        if value is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}", name=name, obj=this)
        setattr(this, name, value)  # the next use does not come here
        return value

    def names() -> list[str]:
        return sorted({*vars(this), *modules()})

    return get, names


def imported_for_types(source: str) -> dict[str, str]:
    """The names that a module imports under ``if TYPE_CHECKING:``, each with its module.

    >>> imported_for_types("if TYPE_CHECKING:\\n    from flash_pl.errors import ConfigError, ModuleError")
    {'ConfigError': 'flash_pl.errors', 'ModuleError': 'flash_pl.errors'}
    """
    import ast

    return {
        alias.name: str(line.module)
        for block in ast.parse(source).body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }
