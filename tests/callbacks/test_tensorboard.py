"""What TensorBoard and other loggers get from a run, read back from the event files."""

import csv
import re
from pathlib import Path

import lightning as L
import pytest
from lightning.fabric import loggers as fabric_loggers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import TensorBoard
from flash_pl.callbacks.loggers import hyperparameters
from flash_pl.callbacks.metric_names import group, meaning, tag
from flash_pl.callbacks.tensorboard import charts
from flash_pl.callbacks.tensorboard_curves import Curves, drawn_before
from flash_pl.callbacks.tensorboard_figures import density_figure, vote_figure
from flash_pl.cli import main
from flash_pl.config import compose, read_config

COMMAND = ["fit", "hetero_jmwst", "rounds=4", "fleet=mixed", "trainer.accelerator=cpu", "run_dir=run", "clients=8"]
COMMAND += ["cohort=4"]


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


def text(events, name):
    """The first text with this name."""
    return events.Tensors(f"{name}/text_summary")[0].tensor_proto.string_val[0].decode()


def test_every_metric_is_a_curve_or_among_the_constants(run):
    path, events = run
    scalars = events.Tags()["scalars"]
    rows = read(path / "metrics.csv")
    names = {name: tag(name, [name] if name.startswith("val_") else []) for name in rows[0] if name != "round"}
    for name, chart in names.items():
        values = {row[name] for row in rows} - {""}
        if len(values) == 1:
            assert f"| {chart} |".replace("_", r"\_") in text(events, "constants") and chart not in scalars, name
        else:
            assert len(events.Scalars(chart)) >= 2, name
    logged = [(event.step, event.value) for event in events.Scalars("accuracy/val_acc")]
    assert logged == [(int(row["round"]), pytest.approx(float(row["val_acc"]))) for row in rows]
    sent = [event.value for event in events.Scalars("resources/MB_up")]
    assert sent == [pytest.approx(float(row["bytes_up"]) / 1e6) for row in rows]


def test_accuracy_and_loss_are_the_first_groups(run):
    _, events = run
    groups = sorted({name.partition("/")[0] for name in events.Tags()["scalars"]})
    assert groups == ["accuracy", "loss", "mask", "per_layer", "resources", "time", "tradeoff", "training"]


def test_no_chart_has_a_single_point(run):
    _, events = run
    assert all(len(events.Scalars(name)) > 1 for name in events.Tags()["scalars"])


def test_curves_have_a_description(run):
    _, events = run
    for name in ("accuracy/val_acc", "accuracy/val_acc_d0.025", "resources/MB_up", "per_layer/density/conv2"):
        assert events.SummaryMetadata(name).summary_description, name


def test_every_metric_of_the_trainer_has_a_meaning(run):
    path, _ = run
    layers = [name for name in read(path / "consensus.csv")[0] if "/" in name and not name.startswith("votes")]
    for name in [*read(path / "metrics.csv")[0], *layers]:
        assert meaning(name, [name] if name.startswith("val_") else []) or name == "round", name


def test_a_round_is_one_event(run):
    path, _ = run
    events = [event for file in path.glob("events*") for event in EventFileLoader(str(file)).Load()]
    steps = [
        event.step
        for event in events
        if any(v.tag == "accuracy/val_acc" and v.WhichOneof("value") for v in event.summary.value)
    ]
    assert steps == [1, 2, 3, 4] and len(events) < 60


NAN = float("nan")


@pytest.mark.parametrize("values", [[1, 1, 1], [1, 1, 2], [1, 2, 2], [NAN, NAN, 3], [None, 1, 2], [1, None, None]])
@pytest.mark.parametrize("split", [None, 1, 2])
def test_a_curve_has_its_first_and_last_equal_value_and_all_later_ones_also_in_a_resumed_run(values, split):
    """``split`` resumes after that round, from the state at its end; the process before it had trained all rounds."""
    points, curves, drawn = [], Curves(), []
    rounds = [(step, {} if value is None else {"x": value}) for step, value in enumerate(values, 1)]
    for step, row in rounds:
        drawn += [(at, value["x"]) for at, value in curves.add(step, row).items()]
        if step == split:
            state = curves.state()
    if split is not None:
        points = [(step, value) for step, value in drawn if step <= split]
        curves = Curves()
        curves.load(state)
        curves.resume(split + 1, {"x"} if points else set())
        drawn = points
        for step, row in rounds[split:]:
            drawn += [(at, value["x"]) for at, value in curves.add(step, row).items()]
    known = [(step, value) for step, value in enumerate(values, 1) if value is not None]
    if len({str(value) for _, value in known}) == 1:
        assert not drawn
    else:
        assert str(sorted(drawn)) == str(known)


def test_curves_of_earlier_processes_are_read_without_a_warning(tmp_path, caplog):
    with SummaryWriter(tmp_path) as writer:
        for step in (1, 2, 3):
            writer.add_scalar("all", step, step)
        writer.add_scalar("replaced", 1, 3)
    with SummaryWriter(tmp_path, purge_step=2) as writer:  # a run that was resumed after round 1
        writer.add_scalar("new", 1, 2)
    assert [drawn_before(str(tmp_path), step) for step in (1, 2, 3, 9)] == [set(), {"all"}, *[{"all", "new"}] * 2]
    assert not caplog.records


def test_charts_overlay_curves_that_exist(run):
    _, events = run
    written = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(written)
    tags = [tag for category in layout.category for chart in category.chart for tag in chart.multiline.tag]
    drawn = {tag: [name for name in events.Tags()["scalars"] if re.match(tag, name)] for tag in tags}
    assert len(tags) > 10 and all(drawn.values())
    assert sum("MB_up" in tag for tag in tags) == 4
    (models,) = [names for names in drawn.values() if "accuracy/val_acc" in names]
    assert len(models) == 5 and "accuracy/val_acc_best" not in models  # server, union, three tiers


def test_charts_of_other_monitors_have_other_titles():
    """TensorBoard shows charts that differ beside each other."""
    ours, others = ([*charts(monitor)["accuracy"]] for monitor in ("val_acc", "val_f1"))
    assert not {*ours} & {*others}


def test_settings_are_written_as_in_yaml(run):
    _, events = run
    shown = text(events, "config")
    assert "None" not in shown and "True" not in shown and "{density: " in shown


def test_the_accuracy_chart_shows_the_scalars_of_another_monitor():
    (_, (tag,)), *_ = charts("val_loss")["accuracy"].values()
    names = ("val_loss", "val_loss_union", "val_loss_d0.1", "val_loss_d1e-05", "val_loss_best", "val_loss_delta")
    assert [bool(re.match(tag, f"loss/{name}")) for name in names] == [True] * 4 + [False] * 2


def test_metrics_are_grouped_by_whole_words_and_by_who_logged_them():
    names = ["val_f1", "val_auroc", "val_translate_bleu", "val_latency", "val/acc (top-5)", "val_loss_union"]
    assert [group(name, names) for name in names] == ["evaluation"] * 4 + ["accuracy", "loss"]
    assert [group(name, names) for name in ("train_f1", "latency", "late", "bytes_up_entropy", "in_all_masks")] == [
        "training", "training", "training", "resources", "mask"
    ]  # fmt: skip


def test_a_chart_finds_a_monitor_with_characters_of_regular_expressions():
    (_, (tag, *_)), *_ = charts("val/acc (top-5)")["accuracy"].values()
    assert re.fullmatch(tag, "accuracy/val/acc (top-5)")


def test_figures_settings_and_layers(run):
    _, events = run
    assert {image for image in events.Tags()["images"]} == {"mask/layer_densities", "mask/votes"}
    assert [image.step for image in events.Images("mask/votes")] == [1, 2, 3, 4]
    assert "**rounds=4**" in text(events, "config") and "**fleet: mixed**" not in text(events, "config")
    assert r"prune\_rate=0.25" in text(events, "config") and r"**prune\_rate" not in text(events, "config")
    assert all(f"| {layer} |" in text(events, "layers") for layer in ("conv1", "conv2", "fc1", "fc2"))


def hparams(events, name):
    data = events.PluginTagToContent("hparams")[f"_hparams_/{name}"]
    return plugin_data_pb2.HParamsPluginData.FromString(data)


def test_hparams_open_on_the_main_settings_and_metrics(run):
    path, events = run
    columns = hparams(events, "experiment").experiment
    names = sorted((not info.differs, info.name) for info in columns.hparam_infos)  # as TensorBoard sorts them
    assert [name for _, name in names[:5]] == ["density", "lr", "overrides", "scheduler", "seed"]
    assert {"data", "model", "rounds", "fleet", "clients"} <= {name for _, name in names} and len(names) < 20
    titles = [info.display_name for info in columns.metric_infos]
    assert titles[:5] == ["final accuracy", "best accuracy", "MB up", "GFLOPs", "mismatch of clients"]
    settings = hparams(events, "session_start_info").session_start_info.hparams
    assert settings["density"].number_value == pytest.approx(0.05) and settings["scheduler"].string_value == "jmwst"
    assert "fleet=mixed" in settings["overrides"].string_value and settings["clients"].number_value == 8
    tags = [info.name.tag for info in columns.metric_infos]
    assert all(len(events.Scalars(name)) == 4 for name in tags)
    accuracies = [float(row["val_acc"]) for row in read(path / "metrics.csv")]
    assert [events.Scalars(name)[-1].value for name in tags[:2]] == pytest.approx([accuracies[-1], max(accuracies)])


def test_the_best_value_follows_the_mode():
    board = TensorBoard(monitor="val_loss", mode="min")
    for value in (float("nan"), 3.0, None, 2.0, 4.0):
        board._update_best(value)
    assert board._best == 2.0


def test_a_dense_run_has_no_figures_of_masks_and_few_charts(tmp_path):
    assert main(["fit", "dense", *COMMAND[2:3], "clients=8", "cohort=2", f"run_dir={tmp_path / 'run'}"]) == 0
    steps = steps_by_tag(tmp_path / "run")
    assert not [name for name in steps if name.startswith(("mask/", "per_layer"))]


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


def test_many_layers_are_drawn_as_a_heat_map_and_figures_have_titles_and_units():
    def rows(layers, rounds=5):
        names = [f"density/layer{i}" for i in range(layers)]
        return [
            {"round": str(r)} | {name: str(0.1 + r * i / 1000) for i, name in enumerate(names)}
            for r in range(1, rounds)
        ]

    many, few, votes = density_figure(rows(20)), density_figure(rows(2)), vote_figure([50, 3, 0, 1], 7)
    assert many.axes[0].collections and not many.axes[0].lines and len(few.axes[0].lines) == 2
    assert [bar.get_height() for bar in votes.axes[0].patches] == [75, 0, 25]
    for figure in (few, votes):
        axes = figure.axes[0]
        assert axes.get_title("left") and axes.get_xlabel() and "%" in axes.get_ylabel()
        figure.draw_without_rendering()
        assert axes.title.get_window_extent().x1 <= figure.bbox.width


def test_figures_that_say_nothing_are_not_drawn():
    constant = [{"round": "1", "density/a": "0.1"}, {"round": "2", "density/a": "0.1"}]
    assert density_figure(constant) is None and density_figure(constant[:1]) is None
    assert vote_figure([5, 0, 0, 3], 1) is None and vote_figure([], 1) is None and vote_figure([5, 0], 1) is None


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
    expected = {"accuracy/val_acc", "loss/val_loss", "mask/mismatch_clients", "per_layer/density/net.0"}
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


SHORT = [*COMMAND, "clients=40", "trainer.eval_clients_every=null"]  # five times fewer images for each


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
    for name, steps in resumed.items():
        if name.endswith("/text_summary"):
            continue  # EventAccumulator never drops replaced texts
        assert len(set(steps)) == len(steps), name
        if not name.startswith(("mask/layer_densities", "mask/votes")):  # of a shorter run, too
            assert sorted(steps) == whole[name], name
    with open("run/metrics.csv", newline="") as file:
        assert [row["round"] for row in csv.DictReader(file)] == [str(round) for round in range(1, 7)]


def test_a_run_that_starts_anew_in_the_same_folder_replaces_the_old_one(make_trainer, unaware, tiny_data, tmp_path):
    logger = fabric_loggers.TensorBoardLogger(tmp_path / "board")
    for rounds in (4, 2):
        make_trainer(tmp_path, rounds=rounds, logger=logger).fit(unaware(), tiny_data)
    assert steps_by_tag(logger.log_dir)["accuracy/val_acc"] == [1, 2]
