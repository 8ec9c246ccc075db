"""Composing configs: names, short keys, layers, types; and building from them."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch

from flash_pl import JMWST, Classifier, ConfigError
from flash_pl.config import RunDir, build_data, build_module, build_trainer, compose, read_config, to_repeat
from flash_pl.config.run_dir import as_argument
from flash_pl.config.shipped import folders, names, read_dotlist
from flash_pl.config.signature import describe, fits
from flash_pl.server import MaskedAverage
from flash_pl.sparsity import Layout


def composed(*arguments, config="jmwst"):
    return compose(read_config(config), arguments)


@pytest.mark.parametrize(
    "short, full",
    [
        ("scheduler.prune_rate=0.3", "scheduler.init_args.prune_rate=0.3"),
        ("scheduler.sensitivity.epochs=2", "scheduler.init_args.sensitivity.init_args.epochs=2"),
        ("scheduler.voter=keep", "scheduler.voter.class_path=flash_pl.server.Keep"),
        ("data.partition=iid", "data.init_args.partition.class_path=flash_pl.data.IID"),
        ("scheduler=flash_pl.NST", "scheduler.class_path=flash_pl.NST"),
        ("aggregator=flash_pl.server.MaskedAverage", "aggregator.class_path=flash_pl.server.MaskedAverage"),
    ],
)
def test_both_spellings_say_the_same(short, full):
    assert composed(short) == composed(full) != composed()


def test_the_path_of_a_class_replaces_a_component_as_a_name_does():
    voter = composed("scheduler.voter=flash_pl.server.MajorityVote")["scheduler"]["init_args"]["voter"]
    assert voter == {"class_path": "flash_pl.server.MajorityVote", "init_args": {}}


def test_a_name_and_its_refinement_in_any_order():
    there = composed("data=fashion_mnist", "data.root=/x", "model=lenet5", "model.image_size=28")
    back = composed("model.image_size=28", "model=lenet5", "data.root=/x", "data=fashion_mnist")
    assert there == back
    assert there["data"]["name"] == "fashion_mnist" and there["data"]["init_args"]["root"] == "/x"
    assert there["model"]["class_path"] == "flash_pl.models.LeNet5"
    assert there["model"]["init_args"] == {"image_size": 28, "init": "lecun"}


def test_short_keys_reach_the_init_args():
    config = composed("alpha=0.1", "clients=30", "batch_size=4", "seed=7")
    arguments = config["data"]["init_args"]
    assert arguments["partition"]["init_args"] == {"alpha": 0.1}
    assert (arguments["clients"], arguments["batch_size"], arguments["seed"]) == (30, 4, 7)


def test_a_data_set_brings_defaults_that_the_user_overrides():
    assert (composed()["clients"], composed()["cohort"]) == (20, 5)
    assert composed("cohort=3")["cohort"] == 3 and composed("model=lenet5")["model"]["name"] == "lenet5"
    fashion = composed("data=fashion_mnist")
    assert (fashion["clients"], fashion["cohort"], fashion["model"]["name"]) == (100, 10, "mnistnet")
    assert fashion["model"]["exclude_first_last"]
    assert composed("data=femnist")["clients"] is None


def test_composing_is_pure_and_idempotent():
    config = {"scheduler": {"name": "jmwst", "prune_rate": 0.5}, "data": {"name": "mnist", "partition": "iid"}}
    before = deepcopy(config)
    first = compose(config, ["density=0.2", "compat=official"])
    assert config == before
    assert compose(config, ["density=0.2", "compat=official"]) == first == compose(first)


def test_a_name_in_a_later_layer_replaces_the_whole_component():
    saved = composed("data=fashion_mnist", "data.root=/x", "scheduler.interval.rounds=3")
    again = compose(saved, ["data=digits", "scheduler=pdst"])
    assert "root" not in again["data"]["init_args"]
    assert again["scheduler"] == composed(config="pdst")["scheduler"] and again["scheduler"]["name"] == "pdst"


def test_another_class_keeps_the_init_args_that_it_takes():
    config = composed("scheduler.class_path=flash_pl.schedulers.NST", "scheduler.prune_rate=0.1")
    assert "name" not in config["scheduler"]
    assert set(config["scheduler"]["init_args"]) == {"prune_rate", "move", "decay", "interval", "voter", "first_mask"}
    model = composed("model.class_path=torchvision.models.resnet18")["model"]
    assert model == {
        "class_path": "torchvision.models.resnet18",
        "init_args": {},
        "exclude": [],
        "exclude_first_last": False,
    }


OFFICIAL = {
    "FirstMask.draw": ("first_mask", "draw", "flash_pl.sparsity.BernoulliDraw"),
    "FirstMask.rescale": ("first_mask", "rescale", "flash_pl.sparsity.ScaleOnce"),
    "FirstMask.initialize": ("first_mask", "initialize", "flash_pl.sparsity.AsDrawn"),
    "Sensitivity.move": ("sensitivity", "move", "flash_pl.sparsity.BernoulliMove"),
}


def test_official_sets_what_it_says():
    config = composed("compat=official")
    assert config["trainer"]["lr_delay"] == 1 and config["aggregator"]["init_args"] == {"by_samples": False}
    assert config["aggregator"]["name"] == "fedavg"
    arguments = config["scheduler"]["init_args"]
    assert arguments["move"]["class_path"] == "flash_pl.sparsity.BernoulliMove"
    assert arguments["voter"]["class_path"] == "flash_pl.server.TruncatingVote"
    for part, name, class_path in OFFICIAL.values():
        assert arguments[part]["init_args"][name]["class_path"] == class_path


def test_official_tiers_go_by_position_and_zero_what_nobody_holds():
    config = composed("compat=official", "density=0.2", config="hetero_jmwst")
    trainer = build_trainer(config)
    assert type(trainer.budget).__name__ == "PositionBudget"
    assert [tier.density for tier in trainer.budget.tiers] == pytest.approx([0.1, 0.15, 0.2])
    assert type(trainer.aggregator).__name__ == "ZeroingMaskedAverage" and not trainer.aggregator.by_samples
    voter = trainer.scheduler.voter
    assert (type(voter).__name__, type(voter.layer_budget).__name__) == ("TruncatingVote", "AggregateBudget")
    assert compose(config) == config
    kept = build_trainer(composed("compat=official", "budget=by_share", config="hetero_jmwst"))
    assert type(kept.budget).__name__ == "SparsityBudget"


def test_dense_training_starts_from_torchs_weights_where_the_model_has_a_choice():
    start = [
        composed("data=fashion_mnist", *more, config="dense")["model"]["init_args"] for more in ((), ("model.init=he",))
    ]
    assert [model["init"] for model in start] == ["torch", "he"]
    other = composed("data=cifar10", config="dense")
    assert "init" not in other["model"]["init_args"] and "defaults" not in other["scheduler"]
    assert compose(other) == other


def test_official_starts_from_torchs_weights():
    models = [composed("data=fashion_mnist", *more)["model"]["init_args"] for more in ((), ("compat=official",))]
    assert [model["init"] for model in models] == ["lecun", "torch"]


@pytest.mark.parametrize(
    "scheduler, taken", [("dense", set()), ("pdst", {"first_mask"}), ("spdst", {"sensitivity", "first_mask"})]
)
def test_official_sets_only_what_the_scheduler_has(scheduler, taken):
    config = composed("compat=official", config=scheduler)
    assert set(config["scheduler"]["init_args"]) == taken
    build_trainer(config)


def test_the_users_value_wins_over_official():
    config = composed(
        "compat=official", "trainer.lr_delay=0", "aggregator=masked", "scheduler.voter=magnitude",
        "scheduler.first_mask.draw=exact", "aggregator.by_samples=true",
    )  # fmt: skip
    assert config["trainer"]["lr_delay"] == 0
    assert config["aggregator"]["class_path"] == "flash_pl.server.MaskedAverage"
    assert config["aggregator"]["init_args"] == {"by_samples": True}
    arguments = config["scheduler"]["init_args"]
    assert arguments["voter"]["class_path"] == "flash_pl.server.MagnitudeVote"
    first_mask = arguments["first_mask"]["init_args"]
    assert first_mask["draw"]["class_path"] == "flash_pl.sparsity.ExactDraw"
    assert first_mask["rescale"]["class_path"] == "flash_pl.sparsity.ScaleOnce"


def test_tiers_average_by_mask_unless_asked_otherwise():
    tiers = "budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]"
    assert isinstance(build_trainer(composed(tiers, config="spdst")).aggregator, MaskedAverage)
    assert not isinstance(build_trainer(composed(tiers, "aggregator=fedavg")).aggregator, MaskedAverage)
    assert not isinstance(build_trainer(composed()).aggregator, MaskedAverage)


@pytest.mark.parametrize("name", ["jmwst", "hetero_jmwst", "stead", "feddst"])
def test_what_repeats_a_run_follows_new_values(name):
    start = ["data=fashion_mnist", "data.seed=3", "compat=official"]
    saved = to_repeat(read_config(name), start)
    assert compose(saved) == compose(read_config(name), start) and to_repeat(saved) == saved
    new = ["batch_size=64", "clients=50", "alpha=0.25", "density=0.3", "seed=7"]
    assert compose(saved, new) == compose(read_config(name), [*start, *new])
    data = compose(saved, new)["data"]["init_args"]
    assert (data["batch_size"], data["clients"], data["seed"]) == (64, 50, 3)
    assert data["partition"]["init_args"]["alpha"] == 0.25


def test_a_scheduler_of_a_users_own_brings_its_average():
    by_class = build_trainer(composed("scheduler=flash_pl.schedulers.FedDST"))
    assert type(by_class.aggregator).__name__ == "ZeroingMaskedAverage"
    assert isinstance(build_trainer(composed("aggregator=null", config="feddst")).aggregator, MaskedAverage)
    assert type(build_trainer(composed("aggregator=fedavg", config="feddst")).aggregator).__name__ == "FedAvg"


def test_init_args_become_objects_to_any_depth():
    config = composed(
        "scheduler.voter.rescale=scale_down", "scheduler.sensitivity.move=size_aware", "scheduler.prune_rate=1"
    )
    scheduler = build_trainer(config).scheduler
    assert type(scheduler) is JMWST and scheduler.prune_rate == 1
    assert type(scheduler.voter.rescale).__name__ == "ScaleDown"
    assert type(scheduler.first_stage.move.redistribution).__name__ == "TotalMagnitude"


def test_a_model_is_sized_by_the_data_and_starts_from_the_seed_alone():
    config = composed("data=synthetic", "data.shape=[2, 20, 20]", "data.classes=7", "model=leaf_cnn", "model.hidden=8")
    state = torch.random.get_rng_state()
    module = build_module(config, build_data(config))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert isinstance(module, Classifier) and module.lr == 0.1
    assert module.model.conv1.in_channels == 2 and module.model.fc1.in_features == 64 * 25
    assert module.model.fc2.out_features == 7
    torch.rand(3)
    twin = build_module(composed("data=synthetic", "data.shape=[2, 20, 20]", "data.classes=7", "model=leaf_cnn",
                                 "model.hidden=8", config="nst"), build_data(config))  # fmt: skip
    assert torch.equal(module.model.fc1.weight, twin.model.fc1.weight)
    other = build_module(config | {"seed": 2}, build_data(config))
    assert not torch.equal(module.model.fc1.weight, other.model.fc1.weight)


@pytest.mark.parametrize("name", names("model"))
def test_every_model_has_what_it_never_masks(name):
    config = composed("data=cifar10", f"model={name}")
    module = build_module(config, build_data(config))
    layout = Layout(module, build_trainer(config).binding.exclude, config["model"]["exclude_first_last"])
    masked = {layer.name.removeprefix("model.").removesuffix(".weight") for layer in layout.layers}
    if name.startswith("resnet18"):
        assert len(masked) == (17 if name == "resnet18_tiny" else 20)
    if name == "mnistnet":
        assert masked == {"conv2", "fc1"}
    if name not in ("mnistnet", "lenet5", "leaf_cnn", "digits_cnn"):
        assert "fc" not in masked
    assert "stages.0.0.depthwise.0" not in masked


def test_a_lightning_module_is_federated_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "users_file.py").write_text(
        "import lightning as L\nimport torch\n"
        "class Plain(L.LightningModule):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n        self.fc = torch.nn.Linear(64, num_classes)\n"
        "class Rated(Plain):\n"
        "    def __init__(self, num_classes, lr=1.0):\n        super().__init__(num_classes)\n        self.lr = lr\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plain, rated = composed("model=users_file.Plain"), composed("model=users_file.Rated", "lr=0.5")
    assert type(build_module(plain, build_data(plain))).__name__ == "Plain"
    assert build_trainer(plain).decay.ratio == 1
    for setting in ("lr=0.5", "lr_end=0.01", "lr_horizon=50"):  # which would do nothing
        refused = composed("model=users_file.Plain", setting)
        with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .*Plain takes no argument lr"):
            build_module(refused, build_data(refused))
    assert build_module(rated, build_data(rated)).lr == 0.5
    assert build_trainer(rated).decay.ratio == 0.001 / 0.5


def test_classes_of_the_users_own_inherit_nothing_from_what_they_replace(tmp_path, monkeypatch):
    """Natural owners must not be dealt out anew by the digits' partition."""
    (tmp_path / "own_file.py").write_text(
        "import lightning as L\nimport torch\nfrom flash_pl.data import FederatedDataModule, Samples\n"
        "class Sensors(FederatedDataModule):\n"
        "    classes, shape = 4, (1, 8, 8)\n"
        "    def load(self):\n"
        "        owners = torch.arange(24) % 12\n"
        "        part = Samples(torch.rand(24, 1, 8, 8), torch.arange(24) % 4, owners)\n"
        "        return part, part\n"
        "class Late(L.LightningModule):\n"
        "    def configure_model(self):\n"
        "        if not hasattr(self, 'fc'):\n            self.fc = torch.nn.Linear(64, 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = composed("data=own_file.Sensors", "model=own_file.Late", "clients=12", "cohort=4")
    assert config["data"]["init_args"].get("partition") is None
    data = build_data(config)
    data.setup("fit")
    assert data.client_sizes == [2] * 12 and all(
        len(set(data.client_batches(c).labels.tolist())) == 1 for c in range(12)
    )
    assert build_module(config, data).fc.out_features == 4
    with pytest.raises(ConfigError) as error:
        composed("data=own_file.Sensors", "clients=12")
    assert error.value.key == "model"


def test_torchvisions_functions_are_models():
    config = composed("model.class_path=torchvision.models.resnet18", "model.exclude=[fc]", "data=cifar10")
    module = build_module(config, build_data(config))
    assert module.model.fc.out_features == 10 and build_trainer(config).binding.exclude == ["model.fc"]


@pytest.mark.parametrize("folder", folders())
def test_every_fragment_has_a_description_and_an_importable_class(folder):
    from flash_pl.config.shipped import description, fragment
    from flash_pl.config.signature import locate, signature

    for name in names(folder):
        assert description(name, folder)
        content = fragment(folder, name, folder)
        if folder != "compat":
            parameters = signature(locate(folder, content["class_path"])).parameters
            assert set(content.get("init_args", {})) <= set(parameters)


@pytest.mark.parametrize(
    "value, hint, fine",
    [
        (1, int, True), (1, float, True), (1.5, int, False), (True, int, False), (True, float, False),
        (None, int, False), (None, int | None, True), ([1, 2], tuple[int, int], True), ([1, "a"], list[int], False),
        ("ab", list[str], False), ({"a": 1}, dict[str, int], True), ({"a": 1}, int, False), ("x", JMWST, False),
    ],
)  # fmt: skip
def test_values_fit_hints(value, hint, fine):
    assert fits(value, hint) is fine
    assert describe(hint)


def test_keys_are_converted_to_their_types():
    assert composed("lr=1")["lr"] == 1.0 and isinstance(composed("lr=1")["lr"], float)
    assert composed("rounds=${cohort}")["rounds"] == 5
    with pytest.raises(ConfigError) as error:
        composed("rounds=ten")
    assert error.value.key == "rounds" and "'ten'" in str(error.value) and "an integer" in str(error.value)


@pytest.mark.parametrize("tiers", [[], ["budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]"]])
@pytest.mark.parametrize(
    ("first", "then"), [("jmwst", "dense"), ("dense", "jmwst"), ("jmwst", "feddst"), ("fiarse", "nst")]
)
def test_another_scheduler_in_a_runs_own_config_is_that_scheduler_as_shipped(first, then, tiers):
    """The first scheduler's initial weights and aggregator are not the user's choice; the other values are."""
    chosen = [*tiers, "model.hidden=64", "lr=0.2", "round_average=polynomial"]
    file = to_repeat(read_config(first), chosen)
    assert compose(file, [f"scheduler={then}"]) == composed(*chosen, config=then)
    assert compose(file, ["model.init=torch", f"scheduler={then}"])["model"]["init_args"]["init"] == "torch"


def test_an_alpha_that_nothing_takes_is_refused():
    with pytest.raises(ConfigError) as error:
        composed("data.partition=iid", "alpha=0.1")
    assert error.value.key == "alpha" and "0.1" in str(error.value)
    assert composed("data.partition=unbalanced_dirichlet", "alpha=0.1")["alpha"] == 0.1
    again = composed("alpha=0.1")
    assert compose(again) == again


def test_clients_and_batches_of_data_that_set_their_own_are_refused(tmp_path, monkeypatch):
    (tmp_path / "sets_its_own.py").write_text(
        "from flash_pl.data import Synthetic\n"
        "class Own(Synthetic):\n"
        "    def __init__(self):\n        super().__init__(samples=40, test_samples=20, clients=4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = "data=sets_its_own.Own", "model=digits_cnn", "cohort=2"
    assert build_data(composed(*own)).wanted == 4
    for setting in ("clients=5", "batch_size=8"):
        with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .* sets_its_own.Own takes no argument"):
            build_data(composed(*own, setting))


def test_a_value_may_hold_what_yaml_takes_for_a_comment(tmp_path):
    assert read_dotlist(["run_dir=runs/a #1", "data.root=/x #2", "seed=3"]) == {
        "run_dir": "runs/a #1",
        "data": {"root": "/x #2"},
        "seed": 3,
    }
    assert read_dotlist(["run_dir=007", "ckpt_path=null"]) == {"run_dir": "007", "ckpt_path": None}
    for path in ("runs/b #1", "runs/{x}", "7", "on", 'a "b"/c', "plain/one"):
        config = composed(f"run_dir={as_argument(Path(path))}")
        assert RunDir(config).path == Path(path)
