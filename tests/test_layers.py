"""Files import only from their own layer's package and from the layers above it."""

import ast
from pathlib import Path

import pytest

import flash_pl

ROOT = Path(flash_pl.__file__).parent
# A part may import from the parts listed for it, and from itself.
L0 = {"seeding", "errors", "state", "checks", "modes"}
ALLOWED = {
    "seeding": set(),
    "errors": set(),
    "state": set(),
    "modes": set(),
    "checks": {"errors"},
    "drawing": set(),
    "ranks": {"errors"},
    "checkpoint": {"errors"},
    "sparsity": L0,
    "wire": L0 | {"sparsity"},
    "data": L0,
    "models": L0,
    "report": L0 | {"sparsity"},
    "kernels": {"errors"},
    "client": L0 | {"kernels", "sparsity", "report"},
    "server": L0 | {"sparsity", "report"},
    "costs": L0 | {"sparsity", "report", "wire"},
    "schedulers": L0 | {"sparsity", "report", "client", "server"},
    "loops": L0 | {"ranks", "wire", "costs", "sparsity", "data", "report", "client", "server", "schedulers"},
    "callbacks": L0
    | {"drawing", "checkpoint", "sparsity", "data", "report", "client", "server", "schedulers", "loops"},
    "export": L0 | {"checkpoint", "config", "data", "sparsity", "wire"},
    "compare": L0 | {"drawing", "checkpoint", "config"},
    "sweep": L0 | {"config", "ranks", "compare"},
}


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        parts |= {name.split(".")[1] for name in names if name and name.startswith("flash_pl.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
    return parts


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_downwards(part):
    files = [ROOT / f"{part}.py"] if (ROOT / f"{part}.py").exists() else sorted((ROOT / part).rglob("*.py"))
    assert files
    for path in files:
        assert imported_parts(path) <= ALLOWED[part] | {part}, path
