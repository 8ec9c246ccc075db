"""What a plain ``pip install`` would leave out."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_package_is_listed() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "flash_pl").rglob("__init__.py")}
    block = re.search(r"^packages = \[(.*?)^\]", PYPROJECT, re.DOTALL | re.MULTILINE)
    assert block is not None
    assert set(re.findall(r'"([\w.]+)"', block[1])) == found | {"flash_pl.conf"}


def test_conf_holds_only_what_the_wheel_takes() -> None:
    strays = [path for path in (ROOT / "conf").rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert not strays
