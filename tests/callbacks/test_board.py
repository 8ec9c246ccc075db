"""What TensorBoard gets of a run, read back from its event files."""

import csv
import re
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from flash_pl.callbacks.tensorboard import charts, density_picture, group, hyperparameters, vote_picture
from flash_pl.cli import main
from flash_pl.config import compose, read_config

COMMAND = ["fit", "hetero_jmwst", "rounds=4", "fleet=mixed", "trainer.accelerator=cpu", "run_dir=run", "clients=8"]
COMMAND += ["cohort=4", "trainer.eval_clients_every=null"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, EventAccumulator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("board"))
        assert main(COMMAND) == 0
        path = Path("run").absolute()
    events = EventAccumulator(str(path), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return path, events


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_every_metric_is_a_scalar_in_a_group(run):
    path, events = run
    scalars = events.Tags()["scalars"]
    names = {name.partition("/")[2] for name in scalars}
    rows = read(path / "metrics.csv")
    assert set(rows[0]) - {"round"} <= names
    assert {"accuracy", "loss", "mask", "cost", "time", "layer_density"} <= {tag.partition("/")[0] for tag in scalars}
    logged = [(event.step, event.value) for event in events.Scalars("accuracy/val_acc")]
    assert logged == [(int(row["round"]), pytest.approx(float(row["val_acc"]))) for row in rows]


def test_accuracy_is_also_drawn_against_what_it_cost(run):
    path, events = run
    rows = read(path / "metrics.csv")
    for axis, column, unit in (("kB_up", "bytes_up_total", 1e3), ("fleet_ms", "fleet_seconds_total", 1e-3)):
        steps = [event.step for event in events.Scalars(f"accuracy_by_{axis}/val_acc")]
        assert steps == [round(float(row[column]) / unit) for row in rows] == sorted(steps)


def test_charts_overlay_curves_that_exist(run):
    _, events = run
    written = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(written)
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    known = {f"^{re.escape(tag)}$" for tag in events.Tags()["scalars"]}
    assert len(tags) > 20 and set(tags) <= known
    assert sum("bytes_up" in tag for tag in tags) == 4 and sum("val_acc_d" in tag for tag in tags) == 3


def test_the_first_chart_shows_another_monitor_where_its_scalars_are():
    (_, tags), *_ = charts("val_loss", [0.1, 0.2], [])["accuracy"].values()
    names = ("val_loss", "val_loss_union", r"val_loss_d0\.1", r"val_loss_d0\.2")
    assert tags == [f"^loss/{name}$" for name in names]


def test_the_servers_own_metrics_are_not_the_clients_and_costs_are_whole_words():
    names = ["val_f1", "val_auroc", "val_translate_bleu", "val_latency", "val/acc (top-5)", "val_loss_union"]
    assert [group(name, names) for name in names] == ["server"] * 4 + ["accuracy", "loss"]
    assert [group(name, names) for name in ("train_f1", "latency", "late", "bytes_up_entropy", "in_all_masks")] == [
        "client", "client", "cost", "cost", "mask"
    ]  # fmt: skip


def test_a_chart_finds_a_monitor_that_reads_like_a_regular_expression():
    (_, (tag, *_)), *_ = charts("val/acc (top-5)", [], [])["accuracy"].values()
    assert re.fullmatch(tag, "accuracy/val/acc (top-5)")


def test_pictures_config_and_final_metrics(run):
    _, events = run
    assert {image for image in events.Tags()["images"]} == {"mask/layer_densities", "mask/votes"}
    assert [image.step for image in events.Images("mask/votes")] == [1, 2, 3, 4]
    assert "prune_rate" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    data = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    facts = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info.hparams
    assert facts["density"].number_value == pytest.approx(0.05) and facts["scheduler.prune_rate"].number_value > 0
    assert not [name for name in facts if name.startswith("trainer")]
    assert {"final/accuracy", "final/MB_up", "final/fleet_seconds_total"} <= set(events.Tags()["scalars"])


def test_settings_that_only_share_the_name_of_a_key_are_hyperparameters():
    own = {"scheduler.interval.rounds": 5, "scheduler.decay.rounds": 30, "server_optimizer.lr": 0.3}
    own |= {"data.seed": 7, "data.partition.alpha": 0.1}
    chosen = [f"{key}={value}" for key, value in own.items()]
    config = compose(read_config("jmwst"), ["scheduler.decay=cosine", "server_optimizer=momentum", *chosen])
    facts = hyperparameters(config)
    assert own.items() <= facts.items()
    assert not {"data.batch_size", "data.clients"} & facts.keys()  # copies of keys of the top level
    plain = hyperparameters(compose(read_config("jmwst"), []))
    assert plain["seed"] and not {"data.seed", "data.partition.alpha"} & plain.keys()


def test_consensus_csv_tells_densities_mismatches_and_votes(run):
    path, _ = run
    metrics, rows = read(path / "metrics.csv"), read(path / "consensus.csv")
    assert [row["round"] for row in rows] == ["1", "2", "3", "4"]
    for row, metric in zip(rows, metrics, strict=True):
        votes = [int(row[f"votes/{held}"]) for held in range(1, 5)]
        assert votes[-1] / sum(votes) == pytest.approx(float(metric["in_all_masks"]))
        assert votes[0] / sum(votes) == pytest.approx(float(metric["in_one_mask"]))
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            assert 0 < float(row[f"density/{layer}"]) <= 1
            assert all(0 <= float(row[f"mismatch_{kind}/{layer}"]) <= 1 for kind in ("clients", "server", "temporal"))


def test_a_resumed_run_draws_its_earlier_rounds_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = [*COMMAND[:2], "rounds=2", *COMMAND[3:]]
    assert main(short) == 0 and main([*COMMAND, "ckpt_path=last"]) == 0
    assert [row["round"] for row in read(Path("run/consensus.csv"))] == ["1", "2", "3", "4"]


def test_a_deep_network_is_drawn_as_a_map():
    rows = [{"round": str(r)} | {f"density/layer{i}": str(0.1 + i / 100) for i in range(20)} for r in range(1, 6)]
    assert density_picture(rows).axes[0].collections and not density_picture(rows).axes[0].lines
    assert len(density_picture([{"round": 1, "density/a": 0.1}]).axes[0].lines) == 1
    heights = [bar.get_height() for bar in vote_picture([50, 3, 0, 1]).axes[0].patches]
    assert heights == [75, 0, 25]
