"""Composing configs: names, short keys, layers of values, and the config that repeats a run."""

from copy import deepcopy

import pytest

from flash_pl import ConfigError
from flash_pl.config import compose, read_config, to_repeat


def composed(*arguments, config="jmwst"):
    return compose(read_config(config), arguments)


@pytest.mark.parametrize(
    "short, full",
    [
        ("scheduler.prune_rate=0.3", "scheduler.init_args.prune_rate=0.3"),
        ("scheduler.sensitivity.epochs=2", "scheduler.init_args.sensitivity.init_args.epochs=2"),
        ("scheduler.voter=keep", "scheduler.voter.class_path=flash_pl.server.KeepMask"),
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


def test_a_name_in_a_later_layer_replaces_the_component():
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
        "include": [],
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


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_what_the_user_gave_is_kept_beside_the_resolved_config():
    start = ["lr=0.2", "scheduler.prune_rate=0.3", "budget.tiers=[{density: 0.02, share: 1.0}]"]
    saved = to_repeat(read_config("jmwst"), start)
    tiers = {"tiers": [{"density": 0.02, "share": 1.0}]}
    given = {"scheduler": {"name": "jmwst", "init_args": {"prune_rate": 0.3}}, "lr": 0.2, "budget": tiers}
    assert saved["given"] == given and "given" not in compose(saved)
    again = to_repeat(saved, ["lr=0.4", "seed=3"])
    assert again["given"] == given | {"lr": 0.4, "seed": 3} and again["lr"] == 0.4


def test_another_scheduler_is_composed_from_the_given_values_only():
    saved = to_repeat(read_config("stead"), ["scheduler.prune_rate=0.5", "lr=0.2"])
    saved["lr_horizon"] = 7  # not given, so the next scheduler does not get it
    nst = compose(saved, ["scheduler=nst"])
    assert nst == composed("scheduler=nst", "lr=0.2", config="stead") and nst["lr_horizon"] == 1000
    assert compose(saved, ["scheduler=stead"])["lr_horizon"] == 7  # the same scheduler again
    by_class = compose(saved, ["scheduler=flash_pl.schedulers.PDST"])  # it keeps the first mask, PDST has no prune_rate
    assert by_class == composed("scheduler=flash_pl.schedulers.PDST", "lr=0.2", config="stead")


def test_a_complete_config_without_given_values_is_taken_as_it_is():
    saved = composed("lr=0.2", "model.init=torch")
    assert compose(saved, ["scheduler=nst"])["model"]["init_args"]["init"] == "torch"


def test_callbacks_are_components_in_a_list():
    short = composed("callbacks=[my_file.Mine, {class_path: my_file.Other, every: 5}]")["callbacks"]
    other = {"class_path": "my_file.Other", "init_args": {"every": 5}}
    assert short == [{"class_path": "my_file.Mine", "init_args": {}}, other]
    saved = to_repeat(read_config("jmwst"), ["callbacks=[my_file.Mine]"])
    assert compose(saved)["callbacks"] == short[:1] and compose(saved, ["callbacks=[]"])["callbacks"] == []
    assert composed()["callbacks"] == []


@pytest.mark.parametrize("clients", ["clients=50", "data.clients=50"])
def test_a_cohort_is_compared_with_the_clients_of_the_data(clients):
    """The digits have 20 clients unless the user says otherwise, wherever he says it."""
    assert compose({"scheduler": "pdst"}, [clients, "cohort=30"])["cohort"] == 30
    with pytest.raises(ConfigError, match="51 is more than the 50 clients"):
        compose({"scheduler": "pdst"}, [clients, "cohort=51"])
