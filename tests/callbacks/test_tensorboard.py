"""What TensorBoard and other loggers get from a run, read back from the event files."""

import csv
import re
from pathlib import Path

import lightning as L
import pytest
from lightning.fabric import loggers as fabric_loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import TensorBoard
from flash_pl.callbacks.loggers import group, hyperparameters
from flash_pl.callbacks.tensorboard import charts, density_figure, vote_figure
from flash_pl.cli import main
from flash_pl.config import compose, read_config

COMMAND = ["fit", "hetero_jmwst", "rounds=4", "fleet=mixed", "trainer.accelerator=cpu", "run_dir=run", "clients=8"]
COMMAND += ["cohort=4", "trainer.eval_clients_every=null"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, EventAccumulator]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("tensorboard"))
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


def test_accuracy_is_also_drawn_against_costs(run):
    path, events = run
    rows = read(path / "metrics.csv")
    for cost, column, unit in (("kB_up", "bytes_up_total", 1e3), ("fleet_ms", "fleet_seconds_total", 1e-3)):
        steps = [event.step for event in events.Scalars(f"accuracy_by_{cost}/val_acc")]
        assert steps == [round(float(row[column]) / unit) for row in rows] == sorted(steps)


def test_charts_overlay_curves_that_exist(run):
    _, events = run
    written = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(written)
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    known = {f"^{re.escape(tag)}$" for tag in events.Tags()["scalars"]}
    assert len(tags) > 20 and set(tags) <= known
    assert sum("bytes_up" in tag for tag in tags) == 4 and sum("val_acc_d" in tag for tag in tags) == 3


def test_the_accuracy_chart_shows_the_scalars_of_another_monitor():
    (_, tags), *_ = charts("val_loss", [0.1, 0.2], [])["accuracy"].values()
    names = ("val_loss", "val_loss_union", r"val_loss_d0\.1", r"val_loss_d0\.2")
    assert tags == [f"^loss/{name}$" for name in names]


def test_metrics_are_grouped_by_whole_words_and_by_who_logged_them():
    names = ["val_f1", "val_auroc", "val_translate_bleu", "val_latency", "val/acc (top-5)", "val_loss_union"]
    assert [group(name, names) for name in names] == ["server"] * 4 + ["accuracy", "loss"]
    assert [group(name, names) for name in ("train_f1", "latency", "late", "bytes_up_entropy", "in_all_masks")] == [
        "client", "client", "cost", "cost", "mask"
    ]  # fmt: skip


def test_a_chart_finds_a_monitor_with_characters_of_regular_expressions():
    (_, (tag, *_)), *_ = charts("val/acc (top-5)", [], [])["accuracy"].values()
    assert re.fullmatch(tag, "accuracy/val/acc (top-5)")


def test_figures_config_and_final_metrics(run):
    _, events = run
    assert {image for image in events.Tags()["images"]} == {"mask/layer_densities", "mask/votes"}
    assert [image.step for image in events.Images("mask/votes")] == [1, 2, 3, 4]
    assert "prune_rate" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    data = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    settings = plugin_data_pb2.HParamsPluginData.FromString(data).session_start_info.hparams
    assert settings["density"].number_value == pytest.approx(0.05)
    assert settings["scheduler.prune_rate"].number_value > 0
    assert not [name for name in settings if name.startswith("trainer")]
    assert {"final/accuracy", "final/MB_up", "final/fleet_seconds_total"} <= set(events.Tags()["scalars"])


def test_settings_with_the_name_of_a_top_level_key_are_hyperparameters():
    own = {"scheduler.interval.rounds": 5, "scheduler.decay.rounds": 30, "server_optimizer.lr": 0.3}
    own |= {"data.seed": 7, "data.partition.alpha": 0.1}
    chosen = [f"{key}={value}" for key, value in own.items()]
    config = compose(read_config("jmwst"), ["scheduler.decay=cosine", "server_optimizer=momentum", *chosen])
    settings = hyperparameters(config)
    assert own.items() <= settings.items()
    assert not {"data.batch_size", "data.clients"} & settings.keys()  # copies of top-level keys
    plain = hyperparameters(compose(read_config("jmwst"), []))
    assert plain["seed"] and not {"data.seed", "data.partition.alpha"} & plain.keys()


def test_consensus_csv_has_densities_mismatches_and_votes(run):
    path, _ = run
    metrics, rows = read(path / "metrics.csv"), read(path / "consensus.csv")
    assert [row["round"] for row in rows] == ["1", "2", "3", "4"]
    for row, metric in zip(rows, metrics, strict=True):
        votes = [int(row[f"votes/{clients}"]) for clients in range(1, 5)]
        assert votes[-1] / sum(votes) == pytest.approx(float(metric["in_all_masks"]))
        assert votes[0] / sum(votes) == pytest.approx(float(metric["in_one_mask"]))
        for layer in ("conv1", "conv2", "fc1", "fc2"):
            assert 0 < float(row[f"density/{layer}"]) <= 1
            assert all(0 <= float(row[f"mismatch_{kind}/{layer}"]) <= 1 for kind in ("clients", "server", "temporal"))


def test_a_resumed_run_keeps_the_rounds_before_it_for_the_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    short = [*COMMAND[:2], "rounds=2", *COMMAND[3:]]
    assert main(short) == 0 and main([*COMMAND, "ckpt_path=last"]) == 0
    assert [row["round"] for row in read(Path("run/consensus.csv"))] == ["1", "2", "3", "4"]


def test_many_layers_are_drawn_as_a_heat_map():
    rows = [{"round": str(r)} | {f"density/layer{i}": str(0.1 + i / 100) for i in range(20)} for r in range(1, 6)]
    assert density_figure(rows).axes[0].collections and not density_figure(rows).axes[0].lines
    assert len(density_figure([{"round": 1, "density/a": 0.1}]).axes[0].lines) == 1
    heights = [bar.get_height() for bar in vote_figure([50, 3, 0, 1]).axes[0].patches]
    assert heights == [75, 0, 25]


@pytest.mark.parametrize("callbacks", [[], [TensorBoard()]], ids=["added", "given"])
def test_other_loggers_get_the_grouped_scalars(callbacks, unaware, tiny_data):
    class Recorder(L.pytorch.loggers.logger.DummyLogger):
        def __init__(self):
            super().__init__()
            self.logged = []

        def log_metrics(self, metrics, step=None):
            self.logged.append((step, metrics))

    logger = Recorder()
    settings = {"density": 0.2, "rounds": 3, "cohort": 2, "accelerator": "cpu"}
    FederatedTrainer(PDST(), callbacks=callbacks, logger=logger, **settings).fit(unaware(), tiny_data)
    assert [step for step, _ in logger.logged] == [1, 2, 3, 3]
    expected = {"accuracy/val_acc", "loss/val_loss", "mask/mismatch_clients", "layer_density/net.0"}
    assert all(expected <= metrics.keys() for _, metrics in logger.logged[:3])


@pytest.mark.parametrize("make", [fabric_loggers.TensorBoardLogger, L.pytorch.loggers.TensorBoardLogger])
def test_tensorboard_continues_in_a_second_run(make, make_trainer, unaware, tiny_data, tmp_path):
    logger = make(tmp_path / "board")
    trainer = make_trainer(tmp_path, logger=logger)
    trainer.fit(unaware(), tiny_data)
    trainer.rounds = 4
    trainer.fit(unaware(), tiny_data, ckpt_path="last")
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    # Of two files of the same second either may be read first.
    assert sorted(event.step for event in events.Scalars("accuracy/val_acc")) == [1, 2, 3, 4]


def steps_by_tag(folder):
    """The steps of every scalar, image and text, as TensorBoard shows them."""
    events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "images", "tensors"), 0))
    events.Reload()
    tags = events.Tags()
    kinds = (("scalars", events.Scalars), ("images", events.Images), ("tensors", events.Tensors))
    return {tag: [event.step for event in read(tag)] for kind, read in kinds for tag in tags[kind]}


SHORT = [*COMMAND, "clients=40"]  # five times fewer images for each


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> dict[str, list[int]]:
    """The steps of a run of six rounds that nothing has stopped."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*SHORT, "rounds=6", f"run_dir={folder / 'run'}"]) == 0
    return steps_by_tag(folder / "run")


@pytest.mark.parametrize("checkpoints", [["last.ckpt"], ["previous.ckpt"], ["last.ckpt", "previous.ckpt"]])
def test_a_resumed_run_shows_every_step_once(checkpoints, whole_run, tmp_path, monkeypatch):
    """From the newest checkpoint, from an older one, and from both, one after the other."""
    monkeypatch.chdir(tmp_path)
    command = [*SHORT, "rounds=4", "trainer.checkpoint_every=2"]
    assert main(command) == 0
    for name in checkpoints:
        assert main([*command, "rounds=6", f"ckpt_path=run/checkpoints/{name}"]) == 0
    whole, resumed = whole_run, steps_by_tag("run")
    assert len(whole) > 40 and whole.keys() == resumed.keys()
    for tag, steps in resumed.items():
        assert len(set(steps)) == len(steps), tag
        if not tag.startswith(("final/", "config", "mask/layer_densities", "mask/votes")):  # of a shorter run, too
            assert sorted(steps) == whole[tag], tag
    with open("run/metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == [str(round) for round in range(1, 7)]


def test_a_run_that_starts_anew_in_the_same_folder_replaces_the_old_one(make_trainer, unaware, tiny_data, tmp_path):
    logger = fabric_loggers.TensorBoardLogger(tmp_path / "board")
    for rounds in (4, 2):
        make_trainer(tmp_path, rounds=rounds, logger=logger).fit(unaware(), tiny_data)
    assert steps_by_tag(logger.log_dir)["accuracy/val_acc"] == [1, 2]
