"""Building the objects of a run from a resolved config."""

import pytest
import torch

from flash_pl import JMWST, Classifier, ConfigError
from flash_pl.config import build_callbacks, build_data, build_module, build_trainer, compose, read_config
from flash_pl.config.shipped import names
from flash_pl.server import MaskedAverage, ZeroingMaskedAverage
from flash_pl.sparsity import Layout


def composed(*arguments, config="jmwst"):
    return compose(read_config(config), arguments)


def test_official_tiers_go_by_position_and_untrained_weights_become_zero():
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


@pytest.mark.parametrize(
    "scheduler, taken", [("dense", set()), ("pdst", {"first_mask"}), ("spdst", {"sensitivity", "first_mask"})]
)
def test_official_sets_only_what_the_scheduler_has(scheduler, taken):
    config = composed("compat=official", config=scheduler)
    assert set(config["scheduler"]["init_args"]) == taken
    build_trainer(config)


@pytest.mark.parametrize("tiers", [(), ("budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]",)])
@pytest.mark.parametrize("scheduler", names("scheduler"))
def test_official_leaves_the_methods_of_other_authors_alone(scheduler, tiers):
    """Their moves, votes and averages are theirs; the authors of FLASH have made no choice there."""
    settings = (f"scheduler={scheduler}", "budget=by_share", *tiers)
    plain, official = composed(*settings), composed(*settings, "compat=official")
    same = all(plain[part] == official[part] for part in ("scheduler", "aggregator"))
    assert same == (scheduler not in ("dense", "nst", "pdst", "spdst", "jmwst"))
    assert official["trainer"]["lr_delay"] == 1


@pytest.mark.parametrize(("lr", "end"), [(0.1, 0.001), (0.03, 0.001), (0.001, 0.001), (0.0005, 0.0005)])
def test_a_learning_rate_never_rises(lr, end):
    """``lr_end`` is 0.001 by default."""
    decay = build_trainer(composed(f"lr={lr}")).decay
    assert lr * decay.scale(1000) == pytest.approx(end) and decay.scale(0) == 1


def test_tiers_are_averaged_by_mask_unless_the_user_names_an_aggregator():
    tiers = "budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]"
    assert isinstance(build_trainer(composed(tiers, config="spdst")).aggregator, MaskedAverage)
    assert not isinstance(build_trainer(composed(tiers, "aggregator=fedavg")).aggregator, MaskedAverage)
    assert not isinstance(build_trainer(composed()).aggregator, MaskedAverage)


def test_a_scheduler_named_by_its_class_brings_its_aggregator():
    by_class = build_trainer(composed("scheduler=flash_pl.schedulers.FedDST"))
    assert type(by_class.aggregator).__name__ == "ZeroingMaskedAverage"
    assert isinstance(build_trainer(composed("aggregator=null", config="feddst")).aggregator, ZeroingMaskedAverage)
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
def test_every_model_excludes_its_layers_from_the_mask(name):
    of_tables = ["model.in_features=5"] if name == "mlp" else []
    config = composed("data=cifar10", f"model={name}", *of_tables)
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
    with pytest.raises(ConfigError) as refused:
        adam = composed("model=users_file.Rated", "optimizer=adam")
        build_module(adam, build_data(adam))
    assert refused.value.key == "optimizer"
    for setting in ("lr=0.5", "lr_end=0.01", "lr_horizon=50"):  # which would do nothing
        refused = composed("model=users_file.Plain", setting)
        with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .*Plain takes no argument lr"):
            build_module(refused, build_data(refused))
    assert build_module(rated, build_data(rated)).lr == 0.5
    assert build_trainer(rated).decay.ratio == 0.001 / 0.5
    text = composed("data=king_james", "model=users_file.Plain")  # nobody has asked for the optimizer of these data
    assert type(build_module(text, build_data(text))).__name__ == "Plain"


@pytest.mark.parametrize("model", ["char_transformer", "char_lstm"])
def test_a_model_of_text_is_sized_by_the_text(model, tmp_path):
    (tmp_path / "a.txt").write_text("abc" * 30)
    arguments = [f"data.files={tmp_path}/*.txt", "data.window=5", f"model={model}"]
    config = composed("data=text", *arguments)
    module = build_module(config, build_data(config))
    assert module.model.fc.out_features == 4 and module.model.embedding.num_embeddings == 4
    assert module(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 4)
    if model == "char_transformer":
        assert len(module.model.position) == 5
    optimizer = module.configure_optimizers()
    assert type(optimizer) is torch.optim.Adam and optimizer.param_groups[0]["lr"] == 0.003
    plain = composed("data=text", *arguments, "optimizer=sgd", "lr=0.5")
    assert type(build_module(plain, build_data(plain)).configure_optimizers()) is torch.optim.SGD


def test_a_users_class_inherits_no_init_args_from_the_class_it_replaces(tmp_path, monkeypatch):
    """The digits' partition must not redistribute samples that have natural owners."""
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


def test_clients_and_batches_of_data_that_set_their_own_are_refused(tmp_path, monkeypatch):
    (tmp_path / "sets_its_own.py").write_text(
        "from flash_pl.data import Synthetic\n"
        "class Own(Synthetic):\n"
        "    def __init__(self):\n        super().__init__(samples=40, test_samples=20, clients=4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = "data=sets_its_own.Own", "model=digits_cnn", "cohort=2"
    assert build_data(composed(*own)).requested_clients == 4
    for setting in ("clients=5", "batch_size=8"):
        with pytest.raises(ConfigError, match=f"{setting.split('=')[0]}: .* sets_its_own.Own takes no argument"):
            build_data(composed(*own, setting))


def test_options_of_the_trainer_reach_it():
    options = ["eval_every=3", "finetune_epochs=2", "eval_clients_every=0", "on_client_error=skip", "min_clients=2"]
    options += ["channels_last=false", "gradient_clip_val=1", "timeout=60", "backend=dense", "lr_delay=1"]
    trainer = build_trainer(composed(*(f"trainer.{option}" for option in options)))
    assert (trainer.evaluate.eval_every, trainer.evaluate.finetune_epochs) == (3, 2)
    assert (trainer.faults.on_client_error, trainer.faults.min_clients) == ("skip", 2)
    assert (trainer.binding.channels_last, trainer.binding.backend, trainer.timeout) == (False, "dense", 60.0)
    assert trainer.clipping.value == 1.0 and trainer.decay.delay == 1


def test_callbacks_of_the_config_join_those_of_the_caller(tmp_path, monkeypatch):
    (tmp_path / "watching.py").write_text(
        "from flash_pl.callbacks import Callback\n"
        "class Watch(Callback):\n"
        "    def __init__(self, every: int = 1):\n        self.every = every\n"
        "    def on_round_end(self, loop, row):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = composed("callbacks=[watching.Watch, {class_path: watching.Watch, init_args: {every: 5}}]")
    assert [callback.every for callback in build_callbacks(config)] == [1, 5]
    first = build_callbacks(config)[0]
    callbacks = build_trainer(config, [first]).callbacks
    assert [callback.every for callback in callbacks if type(callback) is type(first)] == [1, 1, 5]
    with pytest.raises(ConfigError) as error:
        build_trainer(composed("callbacks=[{class_path: watching.Watch, every: often}]"))
    assert error.value.key == "callbacks[0].every" and "'often'" in str(error.value)
