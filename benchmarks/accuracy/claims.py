"""What the paper says about FLASH, point by point, and in which of this project's studies it is true.

    python benchmarks/accuracy/claims.py    # the Markdown table of docs/results.md, from the digests of three studies

A point compares two runs of a study that differ in the method alone; they have the same seed, so the same clients and
cohorts. A cell counts the pairs for which the point is true, and says from which number to which all pairs are.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from study import FLASH_RUNS, RESULTS, Row, read_table, without_diverged

MNISTNET, METHODS, DEEP = "MNISTNet, 60 rounds", "MNISTNet, 30 rounds", "ResNet-18, 100 rounds"
STUDIES = {  # what differs between the settings of a study
    MNISTNET: "d = 0.05 and 0.1; tiers: 0.1 and 0.2",
    METHODS: "alpha = 1 and 0.1, d = 0.02 to 0.2",
    DEEP: "d = 0.05 and 0.01, batch norm; alpha = 0.1, group norm",
}
Curve = Sequence[tuple[float, float]]  # of the evaluated rounds: megabytes sent up so far, accuracy in %


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        study: the study that it belongs to.
        setting: what runs that are compared have in common, except density and seed.
        method, density, seed: of the training.
        accuracy: of the last five rounds, in %.
        mismatch: of the clients' masks in the last round; None if the study does not have it.
        curve: empty if the study does not have it.
    """

    study: str
    setting: tuple[str, ...]
    method: str
    density: float
    seed: str
    accuracy: float
    mismatch: float | None = None
    curve: Curve = ()


@dataclass(frozen=True)
class Pair:
    """A comparison: whether the point is true, and its number; None if there is none, as for a goal never reached."""

    study: str
    true: bool
    number: float | None


# The runs of the three studies


def mnistnet_runs() -> Iterator[Run]:
    """The runs of fashion_mnist.py and hetero.py with our defaults; the bytes of a round are those of costs.py."""
    megabytes = {(row["scheduler"], row["seed"]): float(row["bytes_up_total"]) / 1e6 for row in cost_rows()}
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in read_table(RESULTS / "fashion_mnist_curves.csv"):  # at d = 0.05
        if total := megabytes.get(key := (row["scheduler"], row["seed"])):
            curves.setdefault(key, []).append((total * int(row["round"]) / 60, float(row["accuracy"])))
    for row in read_table(FLASH_RUNS):
        if row["compat"] == "ours":
            method, density, seed = row["experiment"], float(row["density"]), row["seed"]
            curve = sorted(curves.get((method, seed), [])) if density == 0.05 else []
            yield Run(MNISTNET, (), method, density, seed, float(row["accuracy"]), float(row["mismatch_60"]), curve)


def cost_rows() -> list[Row]:
    return [row for row in read_table(RESULTS / "costs.csv") if row["study"] == "costs"]


def methods_runs() -> Iterator[Run]:
    """The runs of methods.py."""
    for row in without_diverged(read_table(RESULTS / "methods.csv")):
        key = (row["alpha"],), row["scheduler"], float(row["density"]), row["seed"]
        yield Run(METHODS, *key, float(row["accuracy"]))


def deep_runs() -> Iterator[Run]:
    """The runs of deep.py."""
    curves: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for row in read_table(RESULTS / "deep_curves.csv"):
        curves.setdefault(deep_key(row), []).append((float(row["MB_up"]), float(row["accuracy"])))
    for row in without_diverged(read_table(RESULTS / "deep.csv")):
        method = "jmwst_masked" if row["method"] == "smallest_jmwst" else row["method"]
        key = (row["norm"], row["alpha"]), method, float(row["density"]), row["seed"]
        mismatch = float(row["mismatch_100"]) if row["mismatch_100"] else None
        yield Run(DEEP, *key, float(row["accuracy"]), mismatch, sorted(curves.get(deep_key(row), [])))


def deep_key(row: Row) -> tuple[str, ...]:
    return tuple(row[column] for column in ("norm", "alpha", "method", "density", "seed"))


# The points


def pairs(runs: Sequence[Run], method: str, other: str, share: float = 1.0) -> Iterator[tuple[Run, Run]]:
    """Runs of two methods with the same study, setting and seed; the density of ``other`` is ``share`` of the first."""
    others = {(run.study, run.setting, round(run.density, 6), run.seed): run for run in runs if run.method == other}
    for run in runs:
        key = run.study, run.setting, round(run.density * share, 6), run.seed
        if run.method == method and key in others:
            yield run, others[key]


def gains(runs: Sequence[Run], method: str, other: str, share: float = 1.0) -> list[Pair]:
    """True where ``method`` is more accurate; the number is by how many points."""
    found = [(run.study, run.accuracy - baseline.accuracy) for run, baseline in pairs(runs, method, other, share)]
    return [Pair(study, points > 0, points) for study, points in found]


def drifts(runs: Sequence[Run]) -> list[Pair]:
    """True where NST's masks are farther apart than JMWST's and NST is less accurate; the number is of its points."""
    return [
        Pair(nst.study, nst.mismatch > jmwst.mismatch and nst.accuracy < jmwst.accuracy, nst.accuracy - jmwst.accuracy)
        for nst, jmwst in pairs(runs, "nst", "jmwst")
        if nst.mismatch is not None and jmwst.mismatch is not None
    ]


def savings(runs: Sequence[Run], method: str) -> list[Pair]:
    """True where ``method`` reaches NST's last accuracy with fewer bytes up; the number is the share of NST's bytes."""
    found = []
    for run, nst in pairs(runs, method, "nst"):
        if run.curve and nst.curve:
            sent = megabytes_to(run.curve, nst.accuracy)
            share = None if sent is None else sent / nst.curve[-1][0]
            found.append(Pair(run.study, share is not None and share < 1, share))
    return found


def megabytes_to(curve: Curve, target: float) -> float | None:
    """The megabytes up to the first evaluation with an accuracy; None if no evaluation has it.

    >>> megabytes_to([(1.0, 50.0), (2.0, 60.0)], 55), megabytes_to([(1.0, 50.0)], 61)
    (2.0, None)
    """
    return next((megabytes for megabytes, accuracy in curve if accuracy >= target), None)


def points(runs: Sequence[Run]) -> dict[str, list[Pair]]:
    """The pairs of every point of the paper."""
    found = {"NST's masks are farther apart than JMWST's, and NST is less accurate": drifts(runs)}
    for method in ("spdst", "jmwst"):
        for baseline in ("nst", "pdst"):
            found[f"{method.upper()} is more accurate than {baseline.upper()}"] = gains(runs, method, baseline)
    for method in ("spdst", "jmwst"):
        found[f"{method.upper()} reaches NST's last accuracy with fewer bytes up"] = savings(runs, method)
    for method, smallest in (("spdst", "spdst"), ("jmwst", "jmwst_masked")):
        text = f"hetero-{method.upper()} is more accurate than {method.upper()} at the smallest budget, same average"
        found[text] = gains(runs, f"hetero_{method}", smallest, share=0.5)
    return found


def verdict(found: Sequence[Pair]) -> str:
    """
    >>> yes, no = Pair("", True, 1.0), Pair("", False, -1.0)
    >>> verdict([yes, yes]), verdict([yes, no]), verdict([no]), verdict([])
    ('holds', 'in part', 'does not hold', 'no runs yet')
    """
    if not found:
        return "no runs yet"
    true = sum(pair.true for pair in found)
    return "holds" if true == len(found) else "in part" if true else "does not hold"


def cell(found: Sequence[Pair], write: Callable[[float], str]) -> str:
    """The number of true pairs, and the range of their numbers.

    >>> cell([Pair("", True, 2.0), Pair("", False, -1.0), Pair("", False, None)], "{:+.1f}".format)
    '1 of 3: -1.0 to +2.0, 1 never'
    """
    if not found:
        return "-"
    numbers = [pair.number for pair in found if pair.number is not None]
    parts = [" to ".join(dict.fromkeys([write(min(numbers)), write(max(numbers))]))] if numbers else []
    parts += [f"{len(found) - len(numbers)} never"] if len(numbers) < len(found) else []
    return f"{sum(pair.true for pair in found)} of {len(found)}: {', '.join(parts)}"


def print_table(runs: Sequence[Run]) -> None:
    """Print the points with a column for each study."""
    print(f"| the paper's point | verdict | {' | '.join(STUDIES)} |\n|---|---|{'---|' * len(STUDIES)}")
    print(f"| settings | | {' | '.join(STUDIES.values())} |")
    for text, found in points(runs).items():
        write: Callable[[float], str] = "{:.2f}".format if "bytes" in text else "{:+.1f}".format
        cells = [cell([pair for pair in found if pair.study == study], write) for study in STUDIES]
        print(f"| {' | '.join([text, verdict(found), *cells])} |")


if __name__ == "__main__":
    print_table([*mnistnet_runs(), *methods_runs(), *deep_runs()])
