"""The notebooks are committed with their outputs and figures, and they run with shortened settings."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"/(home|root|tmp|work|usr|opt|var|Users|mnt|data)/|[A-Z]:\\|site-packages")
MAX_BYTES = 400_000  # of a file

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shorten_(notebook) -> None:
    """Set the variables of the cell tagged "parameters" to the values in the notebook's metadata under "short"."""
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    for name, value in notebook.metadata["short"].items():
        cell.source, replaced = re.subn(rf"^{name} = .*$", f"{name} = {value!r}", cell.source, flags=re.MULTILINE)
        assert replaced == 1, f"{name} is not set in the cell of parameters"


def text_of(output) -> str:
    """The text of an output, without its images."""
    texts = {kind: content for kind, content in output.get("data", {}).items() if not kind.startswith("image/")}
    return output.get("text", "") + json.dumps(texts)


@each
def test_outputs_are_committed_and_name_no_path_of_a_machine(path):
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all("execution" not in cell.metadata for cell in cells)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert not [text_of(output) for output in outputs if MACHINE_PATH.search(text_of(output))]
    assert path.stat().st_size < MAX_BYTES


@each
def test_notebook_runs(path, tmp_path, monkeypatch):
    notebook = read(path)
    shorten_(notebook)
    # The kernel is another process: it must import this checkout and find the commands of this environment.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
