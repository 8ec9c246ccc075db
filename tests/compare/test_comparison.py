"""The numbers of the table."""

import math

import pytest

from flash_pl.compare import Comparison, Run


def comparison(*paths, last=5):
    return Comparison.of([Run.read(path) for path in paths], last)[0]


def column(found, key):
    return next(one for one in found.columns if one.key == key)


def cells(found, key):
    return [found.statistics(group, column(found, key)) for group in found.groups]


def test_accuracy_is_the_mean_of_the_last_evaluated_rounds_over_seeds(make_run):
    one = make_run("1", "seed=1", accuracies=(0.9, "", 0.4, 0.6, ""))
    two = make_run("2", "seed=2", accuracies=("", "", 0.7, 0.9, ""))
    found = comparison(one, two, last=2)
    (cell,) = cells(found, "val_acc")
    assert (cell.mean, cell.n) == (pytest.approx(0.65), 2)
    assert cell.std == pytest.approx(math.sqrt(0.045))  # 0.5 and 0.8
    assert found.text(found.groups[0], column(found, "val_acc")) == "65.0 ± 21.2"
    assert "last 2 evaluated rounds" in found.about_accuracy
    assert cells(comparison(one), "val_acc")[0].std is None


def test_the_best_is_best_among_the_same_data_only(make_run):
    paths = [
        make_run("a", "scheduler=spdst", accuracies=(0.5,), columns={"bytes_up_total": (10,)}),
        make_run("b", "scheduler=nst", accuracies=(0.7,), columns={"bytes_up_total": (30,)}),
        make_run("c", "scheduler=pdst", accuracies=(0.7001,), columns={"bytes_up_total": (30,)}),
        make_run("d", "data=fashion_mnist", accuracies=(0.9,), columns={"bytes_up_total": (5,)}),
    ]
    found = comparison(*paths)
    best = {key: [found.is_best(one, column(found, key)) for one in found.groups] for key in ("val_acc", "bytes_up")}
    # What reads the same is as good; nothing is best alone.
    assert best == {"val_acc": [False, True, True, False], "bytes_up": [True, False, False, False]}


def test_a_metric_that_should_be_low(make_run):
    loss = ["trainer.monitor=val_loss", "trainer.monitor_mode=min"]
    found = comparison(
        make_run("a", *loss, accuracies=(0.3,)), make_run("b", *loss, "scheduler=nst", accuracies=(0.123,))
    )
    assert [found.is_best(one, column(found, "val_loss")) for one in found.groups] == [False, True]
    assert found.text(found.groups[1], column(found, "val_loss")) == "0.123"


def test_columns_that_nobody_has_are_left_out(make_run):
    assert [one.key for one in comparison(make_run("a")).columns] == ["val_acc"]
    optional = ["mismatch_clients", "in_all_masks", "fleet_seconds_total", "flops_inference_ratio", "val_acc_d0.05"]
    some = make_run("b", accuracies=(0.5,), columns={name: (0.25,) for name in optional})
    found = comparison(some)
    keys = ["val_acc", "val_acc_d0.05", "mismatch_clients", "in_all_masks", "flops_inference_ratio", "fleet_seconds"]
    assert [one.key for one in found.columns] == keys
    assert found.columns[1].title == "accuracy at d = 0.05"


def costs(up, participants, total):
    return {
        "bytes_up": up,
        "bytes_down": up,
        "bytes_up_total": total,
        "bytes_down_total": total,
        "participants": participants,
    }


def test_bytes_per_client_and_round_and_against_dense(make_run):
    sparse = make_run("a", accuracies=(0.5, 0.5), columns=costs((20, 40), (2, 4), (30, 70)))  # 10 in stage 1
    dense = make_run(
        "b",
        "scheduler=dense",
        accuracies=(0.5, 0.5),
        columns=costs((200, 400), (2, 4), (200, 600)),
        result={"density": 1},
    )
    assert cells(comparison(sparse), "bytes_up_each")[0].mean == 10
    assert "bytes_ratio" not in [one.key for one in comparison(sparse).columns]
    assert [cell.mean for cell in cells(comparison(sparse, dense), "bytes_ratio")] == pytest.approx([70 / 600, 1])
    known = make_run(
        "c", accuracies=(0.5, 0.5), columns=costs((20, 40), (2, 4), (30, 70)), result={"cost": {"bytes_dense": 1000}}
    )
    assert cells(comparison(known), "bytes_ratio")[0].mean == pytest.approx(70 / 6000)


def test_a_run_that_goes_on_elsewhere_is_held_against_its_own_rounds(make_run):
    columns = costs((20, 40, 60), (2, 4, 4), (30, 70, 130)) | {
        "flops": (10, 30, 5),
        "flops_ratio": (0.1, 0.3, 0.05),
        "flops_total": (30, 60, 65),
        "seconds": (1, 1, 1),
    }
    path = make_run("a", accuracies=(0.5, 0.5, 0.5), columns=columns, result={"cost": {"bytes_dense": 100}})
    header, _, *rows = (path / "metrics.csv").read_text().splitlines()
    (path / "metrics.csv").write_text("\n".join([header, *rows]))  # its first round is in another directory
    found, warnings = Comparison.of([Run.read(path)], 5)
    assert cells(found, "bytes_ratio")[0].mean == pytest.approx(200 / (16 * 100))
    assert cells(found, "flops_ratio")[0].mean == pytest.approx(35 / 200)
    assert cells(found, "bytes_up")[0].mean == 130 and cells(found, "flops")[0].mean == 65  # of the whole run
    assert "seconds" not in [one.key for one in found.columns]
    assert len(warnings) == 1 and "metrics.csv starts after round 1" in warnings[0]


def test_late_clients_have_got_a_model_and_sent_none(make_run):
    columns = costs((20, 40), (2, 4), (20, 60)) | {"late": (2, 0)}
    found = comparison(make_run("a", accuracies=(0.5, 0.5), columns=columns, result={"cost": {"bytes_dense": 100}}))
    assert cells(found, "bytes_up_each")[0].mean == pytest.approx(60 / 6)
    assert cells(found, "bytes_down_each")[0].mean == pytest.approx(60 / 8)
    assert cells(found, "bytes_ratio")[0].mean == pytest.approx(120 / (14 * 100))


def test_bytes_of_repeated_rounds_are_divided_by_all_their_messages(make_run):
    """The first round was tried twice: three clients in the first attempt, two in the second."""
    columns = costs((50, 40), (2, 4), (50, 90)) | {"messages_up": (5, 4), "messages_down": (5, 4)}
    found = comparison(make_run("a", accuracies=(0.5, 0.5), columns=columns, result={"cost": {"bytes_dense": 100}}))
    assert cells(found, "bytes_up_each")[0].mean == cells(found, "bytes_down_each")[0].mean == 10
    assert cells(found, "bytes_ratio")[0].mean == pytest.approx(0.1)


def test_rounds_that_found_nobody(make_run):
    empty = costs((0, 0), (0, 0), (0, 0)) | {"flops": (0, 0), "flops_ratio": (0, 0), "flops_total": (0, 0)}
    found = comparison(make_run("a", accuracies=(0.5, 0.5), columns=empty, result={"cost": {"bytes_dense": 10}}))
    assert not {"bytes_up_each", "bytes_ratio", "flops_ratio"} & {one.key for one in found.columns}


def test_flops_against_dense_count_stage_1(make_run):
    columns = {
        "flops": (10, 30),
        "flops_ratio": (0.1, 0.3),
        "flops_total": (30, 60),
    }  # 20 in stage 1; dense 100 a round
    found = comparison(make_run("a", accuracies=(0.5, 0.5), columns=columns))
    assert cells(found, "flops_ratio")[0].mean == pytest.approx(60 / 200) and cells(found, "flops")[0].mean == 60


def test_accuracies_over_other_rounds_are_no_match(make_run):
    """Of two runs with the same bits one was evaluated every second round: its mean reaches further back."""
    every, second = [0.1, 0.2, 0.3, 0.4], ["", 0.2, "", 0.4]
    paths = [make_run("a", "seed=1", accuracies=every), make_run("b", "seed=2", accuracies=every)]
    assert not Comparison.of(map(Run.read, paths), 2)[0].about_unequal
    paths += [make_run("c", "seed=3", accuracies=second), make_run("d", "seed=4", accuracies=[""] * 4)]
    (paths[3] / "metrics.csv").write_text("round,val_loss\n1,0.1\n2,0.1\n")  # it logs no accuracy at all
    warning = Comparison.of(map(Run.read, paths), 2)[0].about_unequal
    assert "2 of the last 2 in" in warning and f"2 of the last 3 in {paths[2]}" in warning


def test_a_run_that_diverged_is_not_scored_by_the_rounds_before(make_run):
    """A cell that is no finite number is no empty cell."""
    loss = ["trainer.monitor=val_ppl", "trainer.monitor_mode=min"]
    paths = [
        make_run("a", *loss, "seed=1", accuracies=(8.7, 4.5, 3.1, "inf", "nan")),
        make_run("b", *loss, "seed=2", accuracies=(9.0, 5.0, 5.0, 5.0, 5.0)),
        make_run("c", *loss, "seed=1", "scheduler=nst", accuracies=(8.7, 4.5, 336679, "nan", "")),
        make_run("d", *loss, "seed=1", "scheduler=pdst", accuracies=(9.5, 9.5, 9.5, 9.5, 9.5)),
    ]
    found, warnings = Comparison.of(map(Run.read, paths), 2)
    shown = column(found, "val_ppl")
    assert [found.text(group, shown) for group in found.groups] == ["5.00, 1 diverged", "diverged", "9.50"]
    assert "Diverged means NaN or infinite" in found.about_accuracy
    # The rounds of c end earlier by an empty cell, not by its NaN.
    assert not warnings and found.about_unequal
    found, warnings = Comparison.of(map(Run.read, paths[:2] + paths[3:]), 2)
    assert not warnings and not found.about_unequal
    assert [found.is_best(group, shown) for group in found.groups] == [False, True]


def test_percent_stays_where_one_run_has_diverged(make_run):
    found = comparison(make_run("a", accuracies=(0.5, 0.5)), make_run("b", "scheduler=nst", accuracies=(0.5, "-inf")))
    assert [found.text(group, column(found, "val_acc")) for group in found.groups] == ["50.0", "diverged"]
