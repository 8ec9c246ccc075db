"""Parts of flash_pl import only from the layers below their own."""

import ast
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

import flash_pl
from flash_pl.lazy import imported_for_types

ROOT = Path(flash_pl.__file__).parent
# From the bottom to the top. A part imports from itself and from earlier lines, never from its own line's neighbors.
LAYERS = [
    ("environment", "errors", "lazy", "lines", "seeding", "plotting", "signals", "units", "yaml12"),
    ("atomic_write", "checks", "fingerprint", "interrupt", "parent", "plain_pickle", "saved_state"),
    ("archive",),
    ("checkpoint",),
    ("ranks", "kernels", "models"),
    ("launch", "machine", "sparsity"),
    ("data", "client", "wire"),
    ("server",),
    ("schedulers", "costs"),
    ("loops",),
    ("callbacks",),
    ("trainer",),
    ("config", "testing"),
    ("compare", "export"),
    ("sweep",),
    ("commands",),
    ("cli",),
    ("__init__", "__main__"),
]
LEVEL = {part: level for level, parts in enumerate(LAYERS) for part in parts}


def part_of(path: Path) -> str:
    """The package or module directly under flash_pl to which a file belongs."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


PUBLIC = {name: module.split(".")[1] for name, module in imported_for_types((ROOT / "__init__.py").read_text()).items()}


def imported_parts(path: Path) -> set[str]:
    """The parts from which a file imports, in any form and at any place of the file."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            modules = [node.module]
            if node.module == "flash_pl":  # a part, or a name that __init__ takes from one
                modules = [f"flash_pl.{PUBLIC.get(alias.name, alias.name)}" for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "flash_pl":
                parts.add(rest.split(".")[0] if rest else "__init__")
    return parts - {"__version__"}  # a string, which has no layer


def test_every_part_has_a_layer():
    parts = {part_of(path) for path in ROOT.rglob("*.py")}
    assert parts == set(LEVEL) and sum(map(len, LAYERS)) == len(LEVEL)


@pytest.mark.parametrize("part", LEVEL)
def test_imports_point_downwards(part):
    files = [path for path in ROOT.rglob("*.py") if part_of(path) == part]
    assert files
    for path in files:
        for imported in imported_parts(path) - {part}:
            assert LEVEL[imported] < LEVEL[part], f"{path.relative_to(ROOT)} imports flash_pl.{imported}"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("from flash_pl import JMWST", "schedulers"),
        ("from flash_pl import plotting", "plotting"),
        ("import flash_pl.loops.local", "loops"),
        ("import flash_pl", "__init__"),
        ("def f():\n    from flash_pl.server.votes import Vote", "server"),
    ],
)
def test_every_form_of_import_is_seen(line, part, tmp_path):
    (tmp_path / "module.py").write_text(line)
    assert imported_parts(tmp_path / "module.py") == {part}


LAZY = [path for path in ROOT.rglob("__init__.py") if imported_for_types(path.read_text())]


@pytest.mark.parametrize("path", LAZY, ids=lambda path: path.parent.name)
def test_a_package_that_imports_on_demand_has_all_its_names(path):
    package = ".".join(("flash_pl", *path.parent.relative_to(ROOT).parts))
    names = imported_for_types(path.read_text())
    # An import of a module sets the package's attribute, which must not hide another object of this name.
    assert not [name for name in names if find_spec(f"{package}.{name}")]
    module = import_module(package)
    assert sorted(names) == sorted(module.__all__) and set(module.__all__) <= set(dir(module))
    stars = {}
    exec(f"from {package} import *", stars)
    for name, source in names.items():
        assert getattr(module, name) is stars[name] is getattr(import_module(source), name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018
    with pytest.raises(ImportError):
        exec(f"from {package} import nothing")
