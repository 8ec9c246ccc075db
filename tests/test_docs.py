"""README and documentation are right: Python blocks run, commands are accepted, tables equal the scripts' output."""

import ast
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from flash_pl import FederatedTrainer, cli
from flash_pl.callbacks import Callback
from flash_pl.cli import main
from flash_pl.config import build_data, build_module, build_trainer, compose, read_config, shipped
from flash_pl.config.keys import KEYS, SECTIONS
from flash_pl.models import LeafCNN
from flash_pl.sweep.jobs import split

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
TINY = ["data=synthetic", "data.samples=60", "data.test_samples=20", "model=digits_cnn", "model.hidden=16"]
TINY += ["clients=4", "cohort=2", "rounds=1", "density=0.2", "trainer.accelerator=cpu", "trainer.progress=false"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [code for name, code in FENCE.findall(page.read_text()) if name == language]


def documented(command: str) -> set[str]:
    """Every ``flash-pl COMMAND`` in blocks and in sentences, except those of ``commands_with_other_data``."""
    lines: set[str] = set()
    for page in PAGES:
        lines |= {line.split("  #")[0].strip() for block in blocks(page, "") for line in block.splitlines()}
        sentences = FENCE.sub("", page.read_text())
        lines |= {" ".join(code.split()) for code in re.findall(r"`(flash-pl [^`]+)`", sentences)}
    return {line for line in lines if line.startswith(f"flash-pl {command} ")} - set(commands_with_other_data())


def commands() -> list[str]:
    """Every documented ``flash-pl fit``, except those with files or classes of the reader."""
    readers = r"[A-Z]{3}|my_|mine|gradient_growth|runs/|\.csv|\.\.\.|--help|wandb"
    return sorted(line for line in documented("fit") if not re.search(readers, line))


# Random images in place of the data sets that have to be downloaded.
STAND_INS = {
    "mnist": ["data.shape=[1, 28, 28]", "data.classes=10", "model=mnistnet"],
    "femnist": ["data.shape=[1, 28, 28]", "data.classes=62", "model=leaf_cnn", "clients=20", "cohort=10"],
    "cifar10": ["data.shape=[3, 32, 32]", "data.classes=10", "model=resnet18"],
    "cifar100": ["data.shape=[3, 32, 32]", "data.classes=100", "model=resnet18"],
    "tiny_imagenet": ["data.shape=[3, 64, 64]", "data.classes=200", "model=resnet18_tiny"],
}


def commands_with_other_data() -> list[str]:
    """The commands of the two pages whose data sets are not on this machine."""
    pages = [DOCS / "experiments.md", DOCS / "moving.md"]
    lines = [line for page in pages for block in blocks(page, "") for line in block.splitlines()]
    return [line for line in lines if re.match(r"flash-pl (fit|sweep) .*data=(?!synthetic)", line)]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {"__name__": "page"}
    if page.stem == "compare":  # reads finished runs into a DataFrame
        pytest.importorskip("pandas")
        assert main(["fit", "jmwst", *TINY, "run_dir=sweeps/jmwst/seed=1"]) == 0
    for block in blocks(page, "python"):
        exec(compile(block, page.name, "exec"), names)


@pytest.mark.parametrize("command", commands())
def test_a_documented_command_is_accepted(command):
    options = "--dry-run", "--print-config"
    _, _, name, *overrides = (word for word in shlex.split(command) if word not in options)
    one_process = ["trainer.devices=1", "trainer.processes_per_device=1", "trainer.num_nodes=1"]
    config = compose(read_config(name), [*overrides, *one_process, "trainer.accelerator=cpu"])
    build_module(config, build_data(config))
    build_trainer(config)


@pytest.mark.parametrize("command", commands_with_other_data())
def test_a_command_for_data_that_are_elsewhere_is_accepted(command):
    options = cli._parser().parse_args(shlex.split(command)[1:])
    given = dict(argument.split("=", 1) for argument in options.arguments)
    data = given.pop("data")
    given.pop("data.root", None)
    samples = ["data=synthetic", "data.samples=400", "data.test_samples=200", "clients=100", "cohort=10"]
    fixed = [*samples, *STAND_INS[data], "trainer.accelerator=cpu"]
    choices = [[f"{key}={value}" for value in split(key, text)] for key, text in given.items()]
    config = read_config(options.config)
    for number in range(max(map(len, choices))):  # every value, but not every combination
        overrides = [values[number % len(values)] for values in choices]
        composed = compose(config, list({text.partition("=")[0]: text for text in [*fixed, *overrides]}.values()))
        build_trainer(composed)
    build_module(composed, build_data(composed))


@pytest.mark.parametrize("command", sorted(line for line in documented("sweep") if not re.search("FILE|RUN_DIR", line)))
def test_a_documented_sweep_is_accepted(command):
    options = cli._parser().parse_args(shlex.split(command)[1:])
    given = [argument.partition("=")[::2] for argument in options.arguments]
    choices = [[f"{key}={value}" for value in split(key, text)] for key, text in given]
    for number in range(max(map(len, choices))):  # every value, but not every combination
        overrides = [values[number % len(values)] for values in choices]
        build_trainer(compose(read_config(options.config), [*overrides, "trainer.accelerator=cpu"]))


def test_the_command_that_is_shown_to_be_refused_is(capsys):
    (shown,) = [block for block in blocks(DOCS / "tutorial.md", "") if block.startswith("$ ")]
    command, message = shown.strip().splitlines()
    assert main(shlex.split(command.removeprefix("$ flash-pl "))) == 2
    assert capsys.readouterr().err.strip() == message


def test_every_page_is_in_the_navigation():
    pytest.importorskip("mkdocs")
    text = re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text())

    def pages(entry: object) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        return set().union(*map(pages, entry.values() if isinstance(entry, dict) else entry))

    there = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    settings, notebooks = hook("settings"), hook("notebooks")
    generated = {*settings["PAGES"], *(f"notebooks/{notebook.stem}.md" for notebook in notebooks["NOTEBOOKS"])}
    assert pages(yaml.safe_load(text)["nav"]) == there | generated


def hook(name: str) -> dict:
    """The names of a file that mkdocs runs."""
    return runpy.run_path(str(DOCS / "hooks" / f"{name}.py"))


def test_generated_pages_have_every_command_and_every_key():
    pytest.importorskip("mkdocs")
    settings = hook("settings")
    commands, keys = settings["commands"](), settings["keys"]()
    for name in ("fit", "validate", "sweep", "compare", "export", "inspect", "configs"):
        assert f"## flash-pl {name}\n" in commands
    for option in ("--workers N", "--to FILE", "--target VALUE", "--trust"):
        assert option in commands
    assert not [key for key in KEYS if key not in SECTIONS and f"| `{key}` |" not in keys]
    fragments = {folder: shipped.names(folder) for folder in shipped.folders()}
    assert not [name for folder, names in fragments.items() for name in names if f"| `{name}` |" not in keys]
    assert "| `prune_rate` |" in keys


def test_pages_of_notebooks_have_their_figures():
    pytest.importorskip("mkdocs")
    notebooks = hook("notebooks")
    for notebook in notebooks["NOTEBOOKS"]:
        text, figures = notebooks["page"](notebook)
        assert figures and all(png.startswith(b"\x89PNG") and f"]({name})" in text for name, png in figures.items())
        assert ".ipynb)" not in text and "](../docs" not in text


def test_examples_in_docstrings_are_blocks_of_code():
    pytest.importorskip("griffe")
    fenced = hook("doctests")["fenced"]
    assert fenced("A.\n\n>>> 1\n1\n\nB.") == "A.\n\n```pycon\n>>> 1\n1\n```\n\nB."


def test_the_site_needs_no_network():
    """Scripts, styles and fonts that a page loads are files of the site."""
    settings = yaml.safe_load(re.sub(r"!!\S+", "", (ROOT / "mkdocs.yml").read_text()))
    loaded = [*settings["extra_javascript"], *settings["extra_css"], *settings["extra"]["polyfills"]]
    assert not [path for path in loaded if not (DOCS / path).is_file()]
    style = DOCS / "vendor" / "katex" / "katex.min.css"
    fonts = re.findall(r"url\(([^)]+)\)", style.read_text())
    assert fonts and not [font for font in fonts if not (style.parent / font).is_file()]
    assert settings["theme"]["font"] is False and "offline" in settings["plugins"]


def test_every_column_of_metrics_is_explained(tmp_path):
    """The run has tiers, devices with a deadline, accuracies of clients, and skips failing clients."""
    run = ["hetero_jmwst", *TINY, "fleet=mixed", "fleet.deadline=1000", "trainer.finetune_epochs=1"]
    run += ["scheduler.sensitivity.epochs=1", "trainer.on_client_error=skip", f"run_dir={tmp_path}"]
    assert main(["fit", *run]) == 0
    page = (DOCS / "howto" / "metrics.md").read_text()
    explained = set(re.findall(r"`(\w[\w.]*)`", page)) | {"val_loss_union", "val_loss"}
    for column in (tmp_path / "metrics.csv").read_text().splitlines()[0].split(","):
        name = column.replace("val_loss", "val_acc")
        name = re.sub(r"_d0\.\d+$", "_d0.05", name)
        name = re.sub(r"_(entropy|bitmap|values|total|lowest|highest)$", "", name)
        assert name in explained, column


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert targets and not [target for target in targets if "://" not in target and not (ROOT / target).exists()]


BENCHMARKS = ROOT / "benchmarks"
TABLES = {
    "fashion_mnist.py table": DOCS / "results.md",
    "hetero.py table": DOCS / "results.md",
    "costs.py table": DOCS / "costs.md",
    "methods.py table": DOCS / "methods.md",
    "claims.py": DOCS / "results.md",
    "deep.py table": DOCS / "results.md",
    "defaults.py table": DOCS / "choosing.md",
    "text.py table": DOCS / "howto" / "text.md",
    "beyond.py table mnistnet": BENCHMARKS / "accuracy" / "trials.md",
    "beyond.py table digits": BENCHMARKS / "accuracy" / "trials.md",
    "beyond.py table leaf_cnn": BENCHMARKS / "accuracy" / "trials.md",
    "trials.py table": BENCHMARKS / "accuracy" / "trials.md",
}


@pytest.mark.parametrize("command", TABLES)
def test_a_page_shows_the_tables_that_its_script_prints(command, capsys, monkeypatch):
    """Tables are found by their header row; a page may leave out a table, but no row of a table that it shows."""
    script, *arguments = command.split()
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(BENCHMARKS / "accuracy")
    runpy.run_path(str(BENCHMARKS / "accuracy" / script), run_name="__main__")
    printed = [table.splitlines() for table in re.findall(r"(?:^\|.*\n)+", capsys.readouterr().out, re.MULTILINE)]
    page = set(TABLES[command].read_text().splitlines())
    shown = [table for table in printed if table[0] in page]
    assert shown and not [row for table in shown for row in table if row not in page]


def test_files_and_names_on_the_page_about_the_code_exist():
    page, package = (DOCS / "code.md").read_text(), ROOT / "flash_pl"
    files = re.findall(r"`((?!tests/)[\w/]+\.py)`", page)
    assert files and not [file for file in files if not (package / file).exists()]
    rows = re.findall(r"\| `([\w/]+\.py)` \| (`.*?`) \|", page)
    lines_of_tables = [line for line in page.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) == len(lines_of_tables)
    for file, names in rows:
        defined = names_defined_in(package / file)
        assert not set(re.findall(r"`([\w.]+)`", names)) - defined, file


def names_defined_in(path: Path) -> set[str]:
    """Functions, classes and variables of a module, and the methods of its classes as ``Class.method``."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
            methods = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{method.name}" for method in methods if isinstance(method, ast.FunctionDef)}
    return names


def test_documented_benchmarks_exist():
    pages = [*PAGES, ROOT / "CONTRIBUTING.md", BENCHMARKS / "README.md", BENCHMARKS / "accuracy" / "trials.md"]
    paths = {path for page in pages for path in re.findall(r"(?<!:)\bbenchmarks/[\w/]+\.\w+", page.read_text())}
    assert paths and not [path for path in paths if not (ROOT / path).exists()]


def test_links_of_the_benchmarks_lead_somewhere():
    for page in (BENCHMARKS / "README.md", BENCHMARKS / "accuracy" / "trials.md"):
        targets = re.findall(r"\]\(([^)#]+)", page.read_text())
        assert targets and not [target for target in targets if not (page.parent / target).exists()]


def test_the_readme_s_module_is_short():
    module = blocks(ROOT / "README.md", "python")[1]
    assert sum(bool(line.strip()) for line in module.splitlines()) <= 25


def test_the_readme_s_scheduler_keeps_counts_and_moves(unaware, tiny_data):
    names: dict = {"__name__": "readme"}
    exec(compile(blocks(ROOT / "README.md", "python")[2], "README.md", "exec"), names)
    counts = []

    class Watch(Callback):
        def on_client_end(self, loop, update):
            assert not loop.client.arena[: loop.server.layout.maskable][~update.mask].any()
            counts.append(int(update.mask.sum()))

    trainer = FederatedTrainer(names["SET"](), density=0.2, rounds=2, cohort=3, accelerator="cpu", callbacks=[Watch()])
    loop = trainer.fit(unaware(), tiny_data)
    assert set(counts) == {round(0.2 * loop.server.layout.maskable)}
    assert loop.metrics["mismatch_clients"] > 0


def test_an_exported_model_is_loaded_without_flash_pl(tmp_path):
    assert main(["fit", "pdst", *TINY, f"run_dir={tmp_path / 'run'}"]) == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for to, options in (("model.safetensors", []), ("sparse.safetensors", ["--sparse"])):
        assert main(["export", str(checkpoint), "--to", str(tmp_path / to), *options]) == 0
    (loader,) = blocks(DOCS / "howto" / "export.md", "python")
    assert "flash_pl" not in loader
    names: dict = {"__name__": "page"}
    exec(compile(loader, "export.md", "exec"), names)
    dense = names["load_dense"](tmp_path / "model.safetensors")
    sparse = names["load_sparse"](tmp_path / "sparse.safetensors")
    assert dense.keys() == sparse.keys() and all(torch.equal(dense[name], sparse[name]) for name in dense)
    LeafCNN(channels=(16, 32), hidden=16).load_state_dict(sparse)
    save_file({"pos.indices": torch.arange(3)}, tmp_path / "buffer.safetensors")
    assert names["load_sparse"](tmp_path / "buffer.safetensors").keys() == {"pos.indices"}  # a network's own
