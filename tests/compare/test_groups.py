"""Which runs belong together, and what groups are called."""

import pytest

from flash_pl.compare import Run
from flash_pl.compare.groups import group_runs
from flash_pl.compare.settings import shared_settings


@pytest.fixture
def groups_of(make_run):
    """Groups of runs with these arguments, each a list."""

    def make(*runs, **kwargs):
        paths = [make_run(f"run{index}", *arguments, **kwargs) for index, arguments in enumerate(runs)]
        return group_runs([Run.read(path) for path in paths])

    return make


def labels(groups):
    return [one.label for one in groups]


def test_seeds_are_one_group_in_order_and_a_second_run_of_a_seed_is_left_out(groups_of):
    groups, warnings = groups_of(["seed=3"], ["seed=1"], ["seed=3"])
    assert [one.seeds for one in groups] == [[1, 3]] and labels(groups) == ["jmwst"]
    assert len(warnings) == 1 and "run2" in warnings[0] and "run0" in warnings[0]


def test_a_partition_that_stays_is_one_group_whatever_its_seed(groups_of):
    stays = [[f"seed={seed}", "data.seed=2"] for seed in (1, 2, 3)]
    follows = [[f"seed={seed}"] for seed in (1, 3)]
    assert [one.seeds for one in groups_of(*stays)[0]] == [[1, 2, 3]]
    assert [one.seeds for one in groups_of(*follows)[0]] == [[1, 3]]
    assert sorted(one.seeds for one in groups_of(*stays, *follows)[0]) == [[1, 2, 3], [1, 3]]
    assert [one.seeds for one in groups_of(["seed=2"])[0]] == [[2]]


def test_a_partition_that_follows_the_seed_is_no_setting(groups_of):
    follows, stays = [["seed=1"], ["seed=2"]], [["seed=1", "data.seed=1"], ["seed=2", "data.seed=1"]]
    other = [["seed=1", "data.seed=7"]]
    assert labels(groups_of(*follows, *other)[0]) == ["jmwst", "jmwst, seed=7"]
    assert labels(groups_of(*stays, *other)[0]) == ["jmwst, seed=1", "jmwst, seed=7"]


def test_what_a_resumed_run_may_change_splits_no_group_but_its_length(groups_of):
    changed = ["trainer.eval_every=5", "data.root=/x", "wire.verify=true"]
    same = [["data=mnist", "seed=1"], ["data=mnist", "seed=2", *changed]]
    assert len(groups_of(*same)[0]) == 1
    assert labels(groups_of(["rounds=7"], ["rounds=8"])[0]) == ["jmwst, rounds=7", "jmwst, rounds=8"]


@pytest.fixture
def make_run(make_run):
    """Any number of folders, though each test names them alike."""
    count = iter(range(100))
    return lambda name, *arguments, **kwargs: make_run(f"{next(count)}/{name}", *arguments, **kwargs)


def test_labels_say_by_what_groups_differ_and_nothing_else(groups_of):
    methods = ["scheduler=jmwst"], ["scheduler=spdst"], ["scheduler=nst"]
    assert labels(groups_of(*methods)[0]) == ["jmwst", "spdst", "nst"]
    rates = ["scheduler.prune_rate=0.3"], ["scheduler.prune_rate=0.2"], ["scheduler=spdst"]
    groups, _ = groups_of(*rates)
    assert labels(groups) == ["jmwst, prune_rate=0.3", "jmwst, prune_rate=0.2", "spdst"]
    assert groups[0].settings == {"scheduler.prune_rate": 0.3} and groups[0].name == "jmwst, scheduler.prune_rate=0.3"
    # Beside its default a value is shown with it.
    assert labels(groups_of(["local_epochs=7"], [])[0]) == ["jmwst, local_epochs=7", "jmwst, local_epochs=3"]
    voters = ["scheduler.voter=consensus"], []
    assert labels(groups_of(*voters)[0]) == ["jmwst, voter=consensus", "jmwst, voter=magnitude"]


def test_a_key_that_components_repeat_is_said_once(groups_of):
    groups, _ = groups_of(["batch_size=8", "alpha=0.5"], ["batch_size=16", "alpha=0.5"])
    assert labels(groups) == ["jmwst, batch_size=8", "jmwst, batch_size=16"]
    same = shared_settings([one.first for one in groups])
    assert same["alpha"] == 0.5 and not {"data.batch_size", "data.partition.alpha", "batch_size"} & same.keys()
    several, _ = groups_of(["seed=1"], ["seed=2"])
    assert (
        not {"seed", "data.seed"} & shared_settings(several[0].runs).keys()
        and shared_settings(several[0].runs[:1])["seed"] == 1
    )


def test_densities_and_those_of_tiers_are_one_difference(groups_of):
    groups, _ = groups_of(["density=0.1"], ["density=0.2"])
    assert labels(groups) == ["jmwst, d=0.1", "jmwst, d=0.2"]
    tiered, _ = groups_of(["density=0.1"], ["density=0.2"], config="hetero_jmwst")
    assert labels(tiered) == ["hetero_jmwst, d=0.1", "hetero_jmwst, d=0.2"]


def test_a_shipped_config_is_a_name_and_what_it_sets_is_not_repeated(groups_of, make_run):
    own = "budget.tiers=[{density: 0.03, share: 0.3}, {density: 0.05, share: 0.7}]"
    hetero = make_run("hetero", "seed=2", config="hetero_jmwst")
    runs = [make_run("plain", "seed=2"), hetero, make_run("own", own), make_run("dense", config="dense")]
    groups, _ = group_runs(map(Run.read, runs))
    tiers = ["tiers=[{density: 0.05, share: 1.0}]", own.removeprefix("budget.")]
    # The tiers bring an aggregator, which is not named.
    assert labels(groups) == [f"jmwst, {tiers[0]}", "hetero_jmwst", f"jmwst, {tiers[1]}", "dense"]
    assert [one.config for one in groups] == ["jmwst", "hetero_jmwst", "jmwst", "dense"]
    # The same tiers from the command line are the shipped config.
    config = Run.read(hetero).config
    tiers = f"budget.tiers={config['budget']['init_args']['tiers']}".replace("'", "")
    assert labels(groups_of([tiers], [])[0]) == ["hetero_jmwst", "jmwst"]


def test_a_config_that_takes_a_shipped_component_away_says_so(groups_of):
    groups, _ = groups_of([], ["server_optimizer=null"], ["server_optimizer.momentum=0.25"], config="stead")
    assert labels(groups) == [
        "stead, server_optimizer=momentum, momentum=0.5",
        "stead, server_optimizer=null",
        "stead, server_optimizer=momentum, momentum=0.25",
    ]
    assert labels(groups_of(["scheduler=jmwst"], ["scheduler=stead"], config="stead")[0])[1] == "stead"


def test_components_are_called_by_their_fragments(groups_of):
    groups, _ = groups_of([], ["fleet=mixed"], ["fleet=phone"], ["fleet=mixed", "fleet.deadline=3"])
    deadline = ["jmwst, fleet=mixed, deadline=null", "jmwst, fleet=phone", "jmwst, fleet=mixed, deadline=3"]
    assert labels(groups) == ["jmwst", *deadline]
    assert labels(groups_of(["data.partition=iid"], [])[0]) == ["jmwst, partition=iid", "jmwst, partition=dirichlet"]


def test_a_default_is_shown_beside_the_same_shipped_config_only(groups_of):
    groups, _ = groups_of(["lr=0.05"], [], ["scheduler=dense"], ["scheduler=nst", "lr=0.30000000000000004"])
    assert labels(groups) == ["jmwst, lr=0.05", "jmwst, lr=0.1", "dense", "nst, lr=0.3"]


def test_compat_and_another_data_set_bring_what_they_bring(groups_of):
    groups, _ = groups_of(["compat=official"], [])
    assert labels(groups) == ["jmwst, compat=official", "jmwst, compat=null"]
    groups, _ = groups_of([], ["data=fashion_mnist"], ["data=digits", "scheduler=pdst"])
    assert [(one.first.names["data"], one.label) for one in groups] == [
        ("digits", "jmwst"),
        ("digits", "pdst"),
        ("fashion_mnist", "jmwst"),
    ]


def test_a_method_that_keeps_every_weight_has_density_1(groups_of):
    groups, warnings = groups_of(
        ["scheduler=dense", "density=0.1"], ["scheduler=dense", "density=0.2", "seed=2"], result={"density": 1.0}
    )
    assert [(one.first.density, one.seeds) for one in groups] == [(1.0, [1, 2])] and not warnings


def test_arguments_of_a_users_class_make_another_experiment(groups_of, tmp_path, monkeypatch):
    (tmp_path / "named_file.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self, name: str = 'relu', verify: bool = False):\n        super().__init__(64, 4)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    runs = (
        ["model={class_path: named_file.Net, init_args: {name: tanh}}"],
        ["model={class_path: named_file.Net, init_args: {name: relu}}"],
        ["model={class_path: named_file.Net, init_args: {name: relu, verify: true}}"],
    )
    assert len(groups_of(*runs)[0]) == 3


def test_another_metric_is_another_group(groups_of):
    groups, _ = groups_of(["trainer.monitor=val_loss", "trainer.monitor_mode=min"], [])
    assert labels(groups) == ["jmwst, monitor=val_loss", "jmwst, monitor=val_acc"]


def test_a_class_that_is_not_there_any_more_is_no_error(make_run, groups_of):
    path = make_run("old")
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("flash_pl.schedulers.JMWST", "gone.Away").replace("jmwst", "gone"))
    groups, _ = group_runs([Run.read(path)])
    assert labels(groups) == ["gone"]
