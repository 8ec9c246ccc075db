"""Where no number is called the best."""

import pytest

from flash_pl.compare import Comparison, Run


def compared(*paths, last=5, target=None):
    """The comparison, its warnings with what the caption says of unequal runs, and the columns with a best number."""
    found, warnings = Comparison.of([Run.read(path) for path in paths], last, target=target)
    best = {column.key for column in found.columns for group in found.groups if found.is_best(group, column)}
    return found, [*warnings, *filter(None, [found.about_unequal])], best


def total(*values):
    return {"bytes_up_total": values, "bytes_down_total": values}


def test_runs_of_unequal_rounds_have_no_best_but_for_the_target(make_run):
    short = make_run("a", accuracies=(0.2, 0.6), columns=total(10, 20))
    long = make_run("b", "scheduler=nst", accuracies=(0.2, 0.5, 0.7), columns=total(1, 2, 3))
    found, warnings, best = compared(short, long, target=0.6)
    assert best == {"rounds_to_target", "bytes_up_to_target", "bytes_to_target"}
    assert len(warnings) == 1 and "rounds differ (2, 3)" in warnings[0] and "rounds differ" in found.about_unequal
    equal = make_run("c", "scheduler=nst", accuracies=(0.2, 0.5), columns=total(1, 2))
    found, warnings, best = compared(short, equal)
    assert {"val_acc", "bytes_up"} <= best and not warnings and not found.about_unequal
    # Other data sets are not concerned.
    others = [
        make_run(name, "data=fashion_mnist", f"scheduler={name}", accuracies=(value,)) for name, value in
        [("jmwst", 0.5), ("nst", 0.6)]
    ]  # fmt: skip
    found, warnings, best = compared(short, long, *others)
    assert best == {"val_acc"} and len(warnings) == 1 and "digits" in warnings[0]


@pytest.mark.parametrize("arguments", [["alpha=0.3"], ["data.partition=iid"], ["clients=30"]])
def test_runs_on_other_data_have_no_best(make_run, arguments):
    paths = [make_run("a", accuracies=(0.5,)), make_run("b", *arguments, "scheduler=nst", accuracies=(0.6,))]
    _, warnings, best = compared(*paths)
    assert not best and len(warnings) == 1 and arguments[0].partition("=")[0] in warnings[0]


def test_what_training_does_with_the_same_data_is_no_other_data(make_run):
    training = ["batch_size=8", "seed=2", "lr=0.3", "local_epochs=1", "density=0.1"]
    paths = [make_run("a", accuracies=(0.5,)), make_run("b", *training, accuracies=(0.6,))]
    _, warnings, best = compared(*paths)
    assert best == {"val_acc"} and not warnings


def test_accuracies_over_other_rounds_leave_costs_a_best(make_run):
    every = make_run("a", accuracies=(0.1, 0.2, 0.3, 0.4), columns=total(1, 2, 3, 4))
    second = make_run("b", "scheduler=nst", accuracies=("", 0.5, "", 0.6), columns=total(1, 2, 3, 3))
    _, warnings, best = compared(every, second, last=2)
    assert best == {"bytes_up", "bytes_down"} and len(warnings) == 1
    # With unequal rounds, too, the rounds that one run has more are not another evaluation.
    more = make_run("c", "scheduler=nst", accuracies=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    assert "eval_every" not in compared(every, more, last=5)[1][0]
    assert "eval_every" in compared(second, more, last=2)[1][0]


def test_an_accuracy_in_percent_is_shown_as_it_is(make_run):
    paths = [make_run("a", accuracies=(0.4, 71.25)), make_run("b", "scheduler=nst", accuracies=(0.9, 0.5))]
    found, warnings, best = compared(paths[0], last=1)
    column = found.columns[0]
    assert (found.text(found.groups[0], column), found.unit(column).name, warnings) == ("71.2", "", [])
    # Beside a share it is not the best.
    found, warnings, best = compared(*paths, last=1)
    assert not best and len(warnings) == 1 and "val_acc" in warnings[0] and "above 1" in warnings[0]
    # A percentage below 1 in the last round is one all the same.
    found, _, _ = compared(make_run("c", accuracies=(12.5, 0.5)), last=1)
    assert found.text(found.groups[0], found.columns[0]) == "0.500"
