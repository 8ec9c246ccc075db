"""Links from the reference to the source: one page of highlighted code for each file that the reference names.

A template of mkdocstrings (docs/hooks/templates) writes ``href="source:FILE#LINE"``.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.utils import get_relative_url
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

ROOT = Path(__file__).parents[2]
LINK = re.compile(r'href="source:(?:.*/)?(flash_pl/[\w/]+\.py)#(\d+)"')
_linked: set[str] = set()


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Make the links of a page relative."""

    def relative(match: re.Match[str]) -> str:
        _linked.add(match[1])
        return f'href="{get_relative_url(f"source/{match[1]}.html", page.url)}#line-{match[2]}"'

    return LINK.sub(relative, output)


def on_post_build(config: Any) -> None:
    """Write the code that some page links to."""
    for name in sorted(_linked):
        target = Path(config.site_dir) / "source" / f"{name}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        style = HtmlFormatter(full=True, title=name, linenos="inline", lineanchors="line", anchorlinenos=True)
        target.write_text(highlight((ROOT / name).read_text(encoding="utf-8"), PythonLexer(), style), encoding="utf-8")
