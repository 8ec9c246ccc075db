"""The notebooks: committed with what they print and draw, and still running, in a short setting."""

import json
import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE = re.compile(r"/(home|root|tmp|work|usr|opt|var|Users|mnt|data)/|[A-Z]:\\|site-packages")
LARGEST = 400_000  # bytes of a file

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shorten_(notebook) -> None:
    """In the cell tagged "parameters" give the names in the notebook's metadata "short" the values there."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in notebook.metadata["short"].items():
        cell.source, found = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
        assert found == 1, f"{name} is no parameter"


def text_of(output) -> str:
    """All that an output shows, but for its pictures."""
    shown = {kind: part for kind, part in output.get("data", {}).items() if not kind.startswith("image/")}
    return output.get("text", "") + json.dumps(shown)


@each
def test_outputs_are_kept_and_speak_of_no_machine(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all("execution" not in cell.metadata for cell in cells)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [text_of(output) for output in outputs if MACHINE.search(text_of(output))]
    assert path.stat().st_size < LARGEST


@each
def test_it_runs(path, tmp_path, monkeypatch):
    notebook = read(path)
    shorten_(notebook)
    # The kernel is a process of its own: it shall import this checkout and find its commands.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
