"""The studies of accuracy: which trainings they want, and what they conclude from rows."""

import doctest
import sys
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from flash_pl.client import layer_labels
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.data import FashionMNIST
from flash_pl.errors import DataNotFoundError
from flash_pl.models import ResNet18
from flash_pl.sparsity import Layout

ACCURACY = Path(__file__).parents[1] / "benchmarks" / "accuracy"
RATES = {"batch": ("0.01", "0.03", "0.1", "0.3"), "group": ("0.003", "0.01", "0.03", "0.1")}
BEST_RATES = {("batch", "pdst"): "0.03", ("batch", "pdst_scaled"): "0.1", ("group", "pdst"): "0.003"}
SEARCHED = [  # a search that is complete but for the scaled runs with group norm
    {"norm": norm, "method": name, "lr": lr, "accuracy": "60" if lr == best and name == method else "50"}
    for (norm, method), best in BEST_RATES.items()
    for name in (method, *(["dense"] if method == "pdst" else []))
    for lr in RATES[norm]
]


@pytest.fixture
def studies(monkeypatch):
    """The modules of the deep study and what it shares with others."""
    monkeypatch.syspath_prepend(ACCURACY)
    import claims
    import deep
    import deep_cells
    import deep_tables
    import padded
    import study

    yield SimpleNamespace(claims=claims, deep=deep, cells=deep_cells, tables=deep_tables, padded=padded, study=study)
    for name in ("claims", "deep", "deep_cells", "deep_tables", "padded", "study"):
        del sys.modules[name]


def row(method, seed="1", accuracy="80", density="0.05", **columns):
    key = {"norm": "batch", "alpha": "1", "method": method, "density": density, "seed": seed, "lr": "0.1"}
    return key | {"accuracy": accuracy, "flops": "4e9", "MB_up": "10", "MB_down": "10", "mismatch_100": "0"} | columns


def point(run, round, accuracy, megabytes, flops):
    return run | {"round": round, "accuracy": accuracy, "MB_up": megabytes, "MB_down": megabytes, "flops": flops}


def test_the_cells_come_in_the_order_of_their_priority(studies):
    cells = list(studies.cells.cells(SEARCHED, ["1", "2"], studies.cells.SCALE))
    assert len({cell.key for cell in cells}) == len(cells)
    first = cells[:15]
    assert {cell.method for cell in first[:8]} == {*studies.cells.METHODS, "dense"}
    assert {(cell.norm, cell.alpha) for cell in first} == {("batch", "1")}
    assert [cell.seed for cell in first] == ["1"] * 8 + ["2"] * 7
    assert [cell.norm for cell in cells] == sorted(cell.norm for cell in cells)
    assert {(cell.norm, cell.method.endswith("_scaled"), cell.lr) for cell in cells} == {
        ("batch", False, "0.03"),
        ("batch", True, "0.1"),
        ("group", False, "0.003"),
    }
    assert {cell.seed for cell in cells if cell.method == "dense"} == {"1"}


def test_a_network_without_a_rate_has_no_cells(studies):
    searched = [row for row in SEARCHED if row["norm"] == "group"]
    assert {cell.norm for cell in studies.cells.cells(searched, ["1"], {})} == {"group"}


def test_every_cell_is_a_command_that_fit_accepts(studies, tmp_path):
    seen = {cell.method: cell for cell in studies.cells.cells(SEARCHED, ["1"], studies.cells.SCALE)}
    assert {*studies.cells.METHODS, *studies.cells.CONFIGS, "dense"} == {*seen}
    for cell in seen.values():
        _, _, _, fit, config, *settings = cell.command(tmp_path)
        assert fit == "fit"
        build_trainer(compose(read_config(config), settings))


def test_the_rate_is_the_best_of_a_complete_search_and_a_diverged_run_counts_as_nothing(studies):
    searched = [
        {"norm": "batch", "method": method, "lr": lr, "accuracy": accuracy}
        for lr, accuracies in {"0.01": "50 50 0", "0.03": "60 62 0", "0.1": "60 61 99", "0.3": "99 diverged 0"}.items()
        for method, accuracy in zip(["pdst", "dense", "stead"], accuracies.split(), strict=True)
    ]
    assert studies.cells.chosen_rates(searched) == {"batch": "0.03"}
    assert studies.cells.chosen_rates(searched[1:]) == {}


def test_a_run_that_has_diverged_is_finished(studies, tmp_path):
    cell = next(studies.cells.cells(SEARCHED, ["1"], {}))
    log = cell.directory(tmp_path).with_name(f"{cell.directory(tmp_path).name}.log")
    assert not cell.finished(tmp_path)
    log.write_text("flash-pl: error: cannot write\n")
    assert not cell.finished(tmp_path)
    log.write_text("flash-pl: error: training diverged in round 3\n")
    assert cell.finished(tmp_path) and cell.diverged(tmp_path)


def test_no_run_starts_after_the_time_is_up(studies, tmp_path):
    class Touch:
        def __init__(self, name):
            self.name = name

        def directory(self, out):
            return out / self.name

        def finished(self, out):
            return False

        def command(self, out):
            return ["touch", str(self.directory(out))]

    ended = []
    now = datetime.now()
    studies.study.run_all([Touch("late")], tmp_path, 1, now - timedelta(seconds=1), ended.append)
    studies.study.run_all([Touch("early")], tmp_path, 1, now + timedelta(hours=1), lambda run: ended.append(run.name))
    assert ended == ["early"] and (tmp_path / "early").exists() and not (tmp_path / "late").exists()


def test_a_time_of_day_is_in_the_future(studies):
    for minutes in (-2, 2):
        clock = datetime.now() + timedelta(minutes=minutes)
        moment = studies.deep.time_of_day(f"{clock:%H:%M}")
        assert timedelta() < moment - datetime.now() <= timedelta(days=1)
        assert f"{moment:%H:%M}" == f"{clock:%H:%M}"


def test_points_of_the_paper_are_counted_by_pairs_of_the_same_seed(studies):
    def run(method, seed, accuracy, mismatch=0.0, curve=(), density=0.05):
        return studies.claims.Run("study", (), method, density, seed, accuracy, mismatch, curve)

    runs = [
        run("nst", "1", 70.0, 0.4, curve=[(10.0, 70.0)]),
        run("nst", "2", 71.0, 0.4),
        run("jmwst", "1", 75.0, 0.1, curve=[(10.0, 69.0)]),
        run("jmwst", "2", 70.0, 0.1),
        run("spdst", "1", 76.0, curve=[(2.0, 68.0), (3.0, 69.0), (6.0, 76.0)]),
        run("spdst", "3", 10.0),
        run("pdst", "1", 77.0),
        run("hetero_jmwst", "1", 80.0, density=0.1),
        run("jmwst_masked", "1", 79.0, density=0.05),
        run("jmwst_masked", "2", 79.0, density=0.05),
    ]
    points = studies.claims.points(runs)
    outcomes = {text: [(pair.true, pair.number) for pair in found] for text, found in points.items()}
    assert outcomes["NST's masks are farther apart than JMWST's, and NST is less accurate"] == [(True, -5), (False, 1)]
    assert outcomes["SPDST is more accurate than NST"] == [(True, 6)]
    assert outcomes["SPDST is more accurate than PDST"] == [(False, -1)]
    assert outcomes["JMWST is more accurate than PDST"] == [(False, -2)]
    assert outcomes["SPDST reaches NST's last accuracy with fewer bytes up"] == [(True, 0.6)]
    assert outcomes["JMWST reaches NST's last accuracy with fewer bytes up"] == [(False, None)]
    hetero = "hetero-JMWST is more accurate than JMWST at the smallest budget, same average"
    assert outcomes[hetero] == [(True, 1)]


def test_at_equal_flops_every_run_counts_up_to_the_total_of_the_cheapest(studies):
    rows = [row("pdst", accuracy="70", flops="2e9"), row("stead", accuracy="80", flops="8e9"), row("ssfl", flops="9e9")]
    curves = [point(rows[1], "10", "60", "1", "1e9"), point(rows[1], "20", "70", "1", "3e9")]
    curves += [point(rows[0], "100", "70", "1", "2e9"), point(rows[2], "10", "40", "1", "3e9")]
    runs = studies.tables.runs_by_cell(rows)
    cells = [
        studies.tables.at_equal_flops(runs, curves, ("batch", "1", "0.05"), method)
        for method in ("pdst", "stead", "ssfl", "nst")
    ]
    assert cells == ["70.0", "65.0", "before round 10", "-"]


def test_tables_have_a_row_for_every_setting(studies, capsys):
    costs = {"flops_ratio": "0.05", "flops_inference_ratio": "0.05", "seconds_train": "6", "peak_memory_mb": "2000"}
    rows = [row(method, **costs) for method in ("nst", "jmwst", "pdst_erk")]
    rows += [row("spdst", accuracy=studies.study.DIVERGED), row("dense", density="1", **costs)]
    searched = [{"norm": "batch", "method": "pdst", "lr": lr, "accuracy": "61.25"} for lr in ("0.1", "0.03")]
    searched += [{"norm": "group", "method": "dense", "lr": "0.3", "accuracy": studies.study.DIVERGED}]
    studies.tables.print_tables(searched, rows, [])
    printed = capsys.readouterr().out.splitlines()
    assert printed[:4] == [
        "| held-out accuracy, % | lr = 0.03 | lr = 0.1 | lr = 0.3 |",
        "|---|---|---|---|",
        "| batch norm, pdst | 61.2 | 61.2 | - |",
        "| group norm, dense | - | - | diverged |",
    ]
    (accuracies,) = [
        printed[index + 2] for index, line in enumerate(printed) if line.startswith("| accuracy, %, at equal density")
    ]
    assert accuracies.split(" | ")[1:] == ["80.0", "1 diverged", "80.0", "80.0 |"]  # NST, SPDST, JMWST, dense
    assert len([line for line in printed if line.startswith("| batch norm, alpha = 1, d = 0.05 |")]) == 7


def test_the_figure_has_the_layers_from_the_input(studies, tmp_path):
    labels = layer_labels(Layout(ResNet18(in_channels=1), exclude=["fc"]))
    found = {layer: str((index + 1) / 100) for index, layer in enumerate(labels)}
    # The digest sorts by name, and the stem's comes last.
    rows = [row("spdst") | {"layer": layer, "layer_density": found[layer]} for layer in sorted(labels)]
    lines = studies.tables.layer_lines(rows, "0.05")
    assert lines["stage 1"] == [(index + 1) / 100 for index in range(len(labels))] and len(lines["ERK"]) == len(labels)
    assert labels[0] == "stem" and lines["equal counts"][0] == 1
    studies.tables.plot_layers(rows, tmp_path / "layers.png")
    assert (tmp_path / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_the_images_are_padded_and_the_first_ones(studies):
    data = studies.padded.PaddedFashionMNIST(train_samples=300, test_samples=50, clients=3)
    try:
        data.setup()
    except DataNotFoundError:
        pytest.skip("Fashion-MNIST is not here")
    assert data.shape == (1, 32, 32) and data.client_sizes == [100, 100, 100] and len(data.test) == 50
    whole = FashionMNIST(clients=1)
    whole.setup()
    assert (data.train.inputs[:, :, 2:-2, 2:-2] == whole.train.inputs[:300]).all()
    assert (data.train.labels == whole.train.labels[:300]).all() and not data.train.inputs[:, :, :2].any()


def test_the_examples_of_the_studies_are_right(studies):
    results = [doctest.testmod(module) for module in (studies.claims, studies.tables, studies.study)]
    assert sum(result.failed for result in results) == 0 and sum(result.attempted for result in results) > 5
