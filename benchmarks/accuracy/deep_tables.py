"""The tables and the figure of deep.py, from the rows of its digest."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean

import matplotlib
from study import DIVERGED, Row, accuracy, mean, mean_and_deviation, without_diverged

from flash_pl import plotting
from flash_pl.atomic_write import write_atomically
from flash_pl.client import layer_labels
from flash_pl.models import ResNet18
from flash_pl.sparsity import ERK, BySize, Layout

METHODS = ("nst", "pdst", "spdst", "jmwst", "stead", "fiarse", "ssfl", "dense")
# What ``deep_cells.CONFIGS`` changes: initial weights, layer densities, averages, the length of stage 1, FLOP budgets.
VARIANTS = ("nst", "nst_scaled", "pdst", "pdst_scaled", "pdst_erk", "pdst_equal", "pdst_averaged")
VARIANTS += ("spdst", "spdst_scaled", "spdst_short", "spdst_flops", "spdst_averaged")
VARIANTS += ("jmwst", "jmwst_scaled", "jmwst_flops", "jmwst_averaged")
VARIANTS += ("stead", "stead_scaled", "stead_flops", "stead_plain")
AVERAGED = ("pdst_averaged", "spdst_averaged", "jmwst_averaged", "stead")  # the momentum and mean that STEAD has
SPARSE = ("0.05", "0.01")
LOWEST = 0.002  # density that the figure shows; SSFL has layers with none of their weights
Setting = tuple[str, str, str]  # norm, alpha, density
VARIED: Setting = ("batch", "1", "0.05")  # the setting of the variants
Runs = Mapping[tuple[str, str, str, str], list[Row]]  # rows of (norm, alpha, method, density), one for each seed


def runs_by_cell(rows: Iterable[Row]) -> Runs:
    runs = defaultdict(list)
    for row in rows:
        runs[row["norm"], row["alpha"], row["method"], row["density"]].append(row)
    return runs


def settings_of(runs: Runs) -> list[Setting]:
    """The settings that have runs of sparse methods, in the order of the study."""
    found = {(norm, alpha, density) for (norm, alpha, _, density), rows in runs.items() if rows and density in SPARSE}
    return sorted(found, key=lambda setting: (setting[0], -float(setting[1]), -float(setting[2])))


def cell_of(runs: Runs, setting: Setting, method: str) -> list[Row]:
    norm, alpha, density = setting
    return runs.get((norm, alpha, method, "1" if method == "dense" else density), [])


# Curves: the evaluated rounds of a run, from the first


def curve_of(curves: Iterable[Row], run: Row) -> list[Row]:
    key = ("norm", "alpha", "method", "density", "seed", "lr")
    points = [point for point in curves if all(point[column] == run[column] for column in key)]
    return sorted(points, key=lambda point: int(point["round"]))


def accuracy_at(curve: Sequence[Row], flops: float) -> float | None:
    """The accuracy at a number of training FLOPs, interpolated between evaluations; None before the first.

    >>> curve = [{"flops": "1e9", "accuracy": "50"}, {"flops": "3e9", "accuracy": "60"}]
    >>> accuracy_at(curve, 2e9), accuracy_at(curve, 9e9), accuracy_at(curve, 5e8)
    (55.0, 60.0, None)
    """
    points = [(float(point["flops"]), float(point["accuracy"])) for point in curve]
    if not points or flops < points[0][0]:
        return None
    for (start, low), (end, high) in zip(points, points[1:], strict=False):
        if start <= flops < end:
            return low + (high - low) * (flops - start) / (end - start)
    return points[-1][1]


# Tables


def print_tables(searched: Sequence[Row], rows: Sequence[Row], curves: Sequence[Row]) -> None:
    """Print the search, accuracies at equal density and equal training FLOPs, costs, and other settings."""
    print_search(searched)
    runs = runs_by_cell(rows)
    settings = settings_of(runs)
    methods = [name for name in METHODS if any(cell_of(runs, setting, name) for setting in settings)]
    for title, cell in (
        ("accuracy, %, at equal density", lambda setting, method: accuracy(cell_of(runs, setting, method))),
        ("accuracy, %, at equal training FLOPs", lambda setting, method: at_equal_flops(runs, curves, setting, method)),
    ):
        print_grid(title, settings, methods, cell)
    costs: dict[str, Callable[[Sequence[Row]], str]] = {
        "training FLOPs, dense = 1": lambda found: f"{mean(found, 'flops_ratio'):.3f}",
        "inference FLOPs, dense = 1": lambda found: f"{mean(found, 'flops_inference_ratio'):.3f}",
        "MB up / down": lambda found: f"{mean(found, 'MB_up'):.0f} / {mean(found, 'MB_down'):.0f}",
        "seconds of training in a round, median": lambda found: f"{mean(found, 'seconds_train'):.1f}",
        "memory, GB": lambda found: f"{mean(found, 'peak_memory_mb') / 1e3:.1f}",
    }
    for title, write in costs.items():
        print_grid(title, settings, methods, lambda s, m, write=write: written(cell_of(runs, s, m), write))
    averaged = [setting for setting in settings if cell_of(runs, setting, AVERAGED[0])]
    print_grid(
        "accuracy, %, with momentum and mean over rounds",
        averaged,
        AVERAGED,
        lambda s, m: accuracy(cell_of(runs, s, m)),
    )
    title = f"other settings, {label(VARIED)}"
    columns = ("lr", "accuracy, %", "at equal training FLOPs", "training FLOPs", "inference FLOPs")
    print(f"\n| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for method in VARIANTS:
        if found := cell_of(runs, VARIED, method):
            shares = [written(found, costs[f"{kind} FLOPs, dense = 1"]) for kind in ("training", "inference")]
            equal = at_equal_flops(runs, curves, VARIED, method)
            print(f"| {' | '.join([method, found[0]['lr'], accuracy(found), equal, *shares])} |")


def print_search(searched: Sequence[Row]) -> None:
    """Print the held-out accuracy of each method that was searched at each learning rate."""
    rates = sorted({row["lr"] for row in searched}, key=float)
    found = {(row["norm"], row["method"], row["lr"]): row["accuracy"] for row in searched}
    print(f"| held-out accuracy, % | {' | '.join(f'lr = {rate}' for rate in rates)} |\n|---|{'---|' * len(rates)}")
    for norm, method in sorted({key[:2] for key in found}):
        cells = (found.get((norm, method, rate), "-") for rate in rates)
        print(
            f"| {norm} norm, {method} | {' | '.join(c if c in ('-', DIVERGED) else f'{float(c):.1f}' for c in cells)} |"
        )


def print_grid(
    title: str, settings: Iterable[Setting], methods: Sequence[str], cell: Callable[[Setting, str], str]
) -> None:
    """Print a table with a row for each setting and a column for each method."""
    print(f"\n| {title} | {' | '.join(map(name_of, methods))} |\n|---|{'---|' * len(methods)}")
    for setting in settings:
        print(f"| {label(setting)} | {' | '.join(cell(setting, method) for method in methods)} |")


def at_equal_flops(runs: Runs, curves: Sequence[Row], setting: Setting, method: str) -> str:
    """Accuracy when a run has taken as many training FLOPs as the cheapest run of the setting in all rounds.

    A run that has ended by then counts with the mean of its last five rounds, every other with a single evaluation or
    what lies between two. If no run has been evaluated by then, the text says before which round that is.
    """
    budget = min(float(run["flops"]) for name in METHODS for run in without_diverged(cell_of(runs, setting, name)))
    found = without_diverged(cell_of(runs, setting, method))
    evaluated = [curve_of(curves, run) for run in found]
    values = [
        float(run["accuracy"]) if float(run["flops"]) <= budget else accuracy_at(curve, budget)
        for run, curve in zip(found, evaluated, strict=True)
    ]
    reached = [value for value in values if value is not None]
    if reached:
        return mean_and_deviation(reached)
    return f"before round {min(int(curve[0]['round']) for curve in evaluated if curve)}" if any(evaluated) else "-"


def written(found: Sequence[Row], write: Callable[[Sequence[Row]], str]) -> str:
    kept = without_diverged(found)
    return write(kept) if kept else "-"


def name_of(method: str) -> str:
    return "dense" if method == "dense" else method.removesuffix("_averaged").upper()


def label(setting: Setting) -> str:
    norm, alpha, density = setting
    return f"{norm} norm, alpha = {alpha}, d = {density}"


# The figure


def plot_layers(rows: Sequence[Row], to: Path) -> None:
    """Draw the layer densities of stage 1 and of other methods against ERK and equal counts, one panel a density."""
    with matplotlib.rc_context(plotting.SETTINGS):
        figure, panels = plotting.new_figure(len(SPARSE), across=2, height=4.2, same_y=True)
        for axes, density in zip(panels, SPARSE, strict=True):
            for index, (name, values) in enumerate(layer_lines(rows, density).items()):
                axes.plot(range(1, len(values) + 1), values, **plotting.line_style(index), marker=".", label=name)
            axes.set(xlabel="layer, from the input", ylabel="density", title=f"d = {density}")
            plotting.set_log_scale(axes.yaxis)
            axes.set_ylim(bottom=LOWEST)
        plotting.legend_below(figure, panels)
        write_atomically(to, plotting.as_png(figure))


def layer_lines(rows: Sequence[Row], density: str) -> dict[str, list[float]]:
    """The densities of all layers, from the input: by two formulas, and means over the runs of methods."""
    layout = Layout(ResNet18(in_channels=1), exclude=["fc"])
    formulas = {"ERK": ERK(), "equal counts": BySize()}
    lines = {name: formula(layout, float(density)).tolist() for name, formula in formulas.items()}
    for method, name in {"spdst": "stage 1", "jmwst": "JMWST, last round", "ssfl": "SSFL"}.items():
        shares = defaultdict(list)
        for row in rows:
            if (row["norm"], row["alpha"], row["method"], row["density"]) == ("batch", "1", method, density):
                shares[row["layer"]].append(float(row["layer_density"]))
        if shares:
            lines[name] = [fmean(shares[layer]) for layer in layer_labels(layout)]
    return lines
