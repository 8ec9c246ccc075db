"""What a package or a release would leave out, or say wrongly."""

import importlib.machinery
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def array(name: str) -> list[str]:
    """Return the strings of an array of pyproject.toml; Python 3.10 has no reader for it."""
    block = re.search(rf"^{name} = \[(.*?)\]$", PYPROJECT, re.DOTALL | re.MULTILINE)
    assert block is not None
    return re.findall(r'"([^"]+)"', block[1])


def test_every_package_is_listed() -> None:
    found = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "flash_pl").rglob("__init__.py")}
    assert set(array("packages")) == found | {"flash_pl.conf"}


def test_conf_holds_only_what_the_wheel_takes() -> None:
    strays = [path for path in (ROOT / "conf").rglob("*") if path.is_file() and path.suffix != ".yaml"]
    assert not strays


def test_the_source_distribution_holds_every_file(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("needs a checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    sources = set((tmp_path / "flash_pl.egg-info" / "SOURCES.txt").read_text().splitlines())
    assert not {path for path in listed.split("\0") if path and (ROOT / path).exists()} - sources
    assert not [path for path in sources if path.endswith((".so", ".pyc"))]
    assert "warning" not in (done.stdout + done.stderr).lower()


def what_setup_is_given(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Run setup.py, and return the arguments of its call of ``setup``."""
    setuptools = pytest.importorskip("setuptools", minversion="77")
    given: dict = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    return given


def test_the_readme_on_pypi_has_no_links_to_files(monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = re.findall(r'^Source = "(.+)"', PYPROJECT, re.MULTILINE)
    readme = what_setup_is_given(monkeypatch)["long_description"]
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", readme)
    assert [target for _, target in links if source in target]
    assert not [target for _, target in links if not target.startswith("https://")]
    assert not [target for picture, target in links if picture and not target.startswith(f"{source}/raw/")]
    files = [target.split("/main/")[1] for _, target in links if target.startswith(source)]
    assert not [file for file in files if not (ROOT / file).exists()]


def test_one_wheel_serves_every_python(monkeypatch: pytest.MonkeyPatch) -> None:
    given = what_setup_is_given(monkeypatch)
    setuptools = pytest.importorskip("setuptools", minversion="77")
    project = setuptools.Distribution({"name": "flash-pl", "version": "1", "ext_modules": given["ext_modules"]})
    commands = {name: command(project) for name, command in given["cmdclass"].items()}
    for command in commands.values():
        command.finalize_options()
    assert commands["bdist_wheel"].get_tag()[:2] == ("py3", "none")
    assert commands["bdist_wheel"].get_tag()[2] != "any"
    library = Path(commands["build_ext"].get_ext_filename("flash_pl.kernels._native"))
    assert library.parent == Path("flash_pl", "kernels")
    assert library.name in ["_native" + suffix for suffix in importlib.machinery.EXTENSION_SUFFIXES]
    (extension,) = given["ext_modules"]
    assert extension.optional and set(extension.sources + extension.depends) == {
        path.relative_to(ROOT).as_posix() for path in (ROOT / "flash_pl" / "kernels" / "csrc").iterdir()
    }


def test_the_oldest_versions_are_those_of_the_dependencies() -> None:
    """``torch>=2.6`` allows 2.6.0."""
    lines = (ROOT / "tests" / "oldest.txt").read_text()
    oldest = dict(re.findall(r"^([\w-]+)==([\d.]+?)(?:\.\*)?$", lines, re.MULTILINE))
    bounds = dict(re.fullmatch(r"([\w-]+)>=([\d.]+)", bound).groups() for bound in array("dependencies"))
    assert oldest == {name: ".".join((version.split(".") + ["0", "0"])[:3]) for name, version in bounds.items()}


def test_the_readme_names_every_extra() -> None:
    section = PYPROJECT.split("[project.optional-dependencies]")[1].split("\n[project.")[0]
    extras = re.findall(r"^(\w+) = \[", section, re.MULTILINE)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "wandb" in extras and not [name for name in extras if f"`{name}`" not in readme]


def test_the_version_is_written_once() -> None:
    assert not re.search(r"^version = \"", PYPROJECT, re.MULTILINE)
    assert "version" not in yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_every_command_of_the_workflows_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set()
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job.get("steps", []):
                used |= set(re.findall(r"^make ([\w-]+)", step.get("run", ""), re.MULTILINE))
    assert {"lint", "types", "docs", "test", "quick"} <= used <= targets


def test_no_checkout_of_the_workflows_leaves_its_token() -> None:
    """A later step could read it, or upload it with its files."""
    kept = []
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for name, job in yaml.safe_load(path.read_text())["jobs"].items():
            for step in job.get("steps", []):
                checkout = step.get("uses", "").startswith("actions/checkout@")
                if checkout and step.get("with", {}).get("persist-credentials") is not False:
                    kept.append((path.name, name))
    assert not kept


def test_a_release_waits_for_the_addresses() -> None:
    """As long as an address is missing, and until the tag is the version."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    filled = not re.search("FILL-IN", PYPROJECT + (ROOT / "CODE_OF_CONDUCT.md").read_text())
    version = re.search(r'^__version__ = "(.+?)"', (ROOT / "flash_pl" / "__init__.py").read_text(), re.MULTILINE)[1]
    for tag, right in (f"v{version}", True), ("v0.0", False), (f"v{version}0", False):
        done = subprocess.run(["make", "release-check", f"TAG={tag}"], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode == 0) == (right and filled)
        assert ("FILL-IN" in done.stdout) != filled
