"""The notebooks as pages of the site: their text, code, outputs and figures, as they are committed."""

import base64
import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def on_files(files: Any, config: Any) -> Any:
    """Add one page for each notebook, and its figures."""
    for notebook in NOTEBOOKS:
        text, figures = page(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=text))
        for name, png in figures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=png))
    return files


def page(notebook: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its figures by file name."""
    parts: list[str] = []
    figures: dict[str, bytes] = {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_links(source))
            continue
        parts.append(f"```python\n{source}\n```")
        printed: list[str] = []  # what follows each other is one block
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts += _block(printed)
                name = f"{notebook.stem}_{len(figures)}.png"
                figures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Figure of the code above]({name})")
            elif "text/html" in data and "<table" in "".join(data["text/html"]):
                parts += _block(printed)
                parts.append(_table("".join(data["text/html"])))
            else:
                printed.append("".join(output.get("text", data.get("text/plain", []))))
        parts += _block(printed)
    text = "\n\n".join(parts) + f"\n\n*This page is `notebooks/{notebook.name}` with its outputs.*\n"
    return text, figures


def _block(printed: list[str]) -> list[str]:
    """Take what was printed, without the colors of a terminal, as a block of text; none if it is nothing."""
    text = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(part.rstrip("\n") for part in printed)).rstrip()
    printed.clear()
    return [f'```text title="Output"\n{text}\n```'] if text else []


def _links(text: str) -> str:
    """Links between notebooks, and from a notebook to the documentation; other files become text."""
    text = re.sub(r"\]\(\.\./docs/([^)]+)\)", r"](../\1)", text)
    text = re.sub(r"\]\((\d\d_\w+)\.ipynb\)", r"](\1.md)", text)
    return re.sub(r"\[([^\]]+)\]\(\.\./(?:conf|flash_pl|benchmarks)/[^)]+\)", r"\1", text)


def _table(html: str) -> str:
    """An HTML table without its style, so that it looks like the others."""
    html = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    return re.sub(r"\n\s*", "", html)
