"""A checkpoint with a good digest and another structure is refused in one sentence, whatever is wrong with it."""

import copy

import pytest
import torch
from torch import nn

from flash_pl import NST, Classifier, FederatedTrainer
from flash_pl.callbacks import Checkpoint, EarlyStopping
from flash_pl.checkpoint import read_checkpoint, write_checkpoint
from flash_pl.data import Synthetic
from flash_pl.errors import ConfigError
from flash_pl.server import FedAvgM, RoundAverage

VALUES = [
    None,
    -3,
    2**70,
    1.5,
    "x",
    [],
    {},
    [1, 2, 3],
    {"a": 1},
    {1: 2},
    True,
    torch.zeros(3),
    "MISSING",
    "LONGER",
    "HALF",
]


def trainer(folder, rounds):
    settings = {"cohort": 2, "density": 0.3, "accelerator": "cpu", "enable_model_summary": False}
    callbacks = [Checkpoint(folder, every=1), EarlyStopping(patience=5)]
    parts = {"server_optimizer": FedAvgM(), "round_average": RoundAverage()}
    return FederatedTrainer(NST(), rounds=rounds, callbacks=callbacks, enable_progress_bar=False, **parts, **settings)


def module():
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)), classes=4)


def data():
    return Synthetic(samples=40, test_samples=8, classes=4, shape=(1, 4, 4), clients=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer(folder, 1).fit(module(), data())
    return read_checkpoint(folder / "last.ckpt")


def places(node, before=()):
    """The places in a nested state, of long dictionaries and lists only the first."""
    yield before
    if isinstance(node, dict):
        for key in list(node)[:14]:
            yield from places(node[key], (*before, key))
    elif isinstance(node, list):
        for index in range(min(1, len(node))):
            yield from places(node[index], (*before, index))


def changed(state, place, value):
    state = copy.deepcopy(state)
    node = state
    for key in place[:-1]:
        node = node[key]
    old = node[place[-1]]
    if isinstance(value, str) and value == "MISSING":
        del node[place[-1]]
    elif isinstance(value, str) and value in ("LONGER", "HALF"):
        if not isinstance(old, torch.Tensor):
            return None
        node[place[-1]] = torch.cat([old, old[:1]]) if value == "LONGER" else old.half()
    else:
        node[place[-1]] = value
    return state


def test_any_other_value_is_refused_or_harmless(saved, tmp_path):
    """Whatever stands anywhere in the state: it is refused before anything trains, or the run ends well."""
    refused = 0
    for place in places({name: saved[name] for name in ("flash_pl", "early_stopping")}):
        for index, value in enumerate(VALUES):
            if not place or (len(place) + index + len(str(place[-1]))) % 5:  # a fifth, to be fast
                continue
            state = changed(saved, place, value)
            if state is None:
                continue
            write_checkpoint(tmp_path / "bad.ckpt", state)
            try:
                trainer(tmp_path / "run", 2).fit(module(), data(), ckpt_path=tmp_path / "bad.ckpt")
            except ConfigError as error:
                assert "\n" not in str(error)
                refused += 1
    assert refused > 100


SENTENCES = [
    (("flash_pl", "round"), -3, "flash_pl.round: -3"),
    (
        ("flash_pl", "server", "mask"),
        torch.ones(3, dtype=torch.bool),
        "flash_pl.server.mask: a tensor of bool of shape [3]",
    ),
    (("flash_pl", "server", "union"), "MISSING", "flash_pl.server.union: it is missing"),
    (("flash_pl", "server", "weights"), "HALF", None),
    (("flash_pl", "ledger", "link", "masks"), torch.zeros(1, 1, dtype=torch.uint8), "flash_pl.ledger.link.masks"),
    (("flash_pl", "scheduler", "shared_masks"), [torch.zeros(3)], "flash_pl.scheduler.shared_masks[0]"),
    (("flash_pl", "server_optimizer"), {"mean": torch.zeros(2)}, "flash_pl.server_optimizer.mean"),
    (("flash_pl", "extra"), None, "flash_pl.extra"),
    (("flash_pl",), None, None),
]


@pytest.mark.parametrize("place, value, expected", SENTENCES)
def test_the_sentence_names_the_place(place, value, expected, saved, tmp_path):
    path = tmp_path / "bad.ckpt"
    write_checkpoint(path, changed(saved, place, value))
    if place[-1] == "weights":  # a smaller floating type holds the same values, nearly
        assert trainer(tmp_path / "run", 2).fit(module(), data(), ckpt_path=path).round == 2
        return
    with pytest.raises(ConfigError) as caught:
        trainer(tmp_path / "run", 2).fit(module(), data(), ckpt_path=path)
    assert caught.value.key == "ckpt_path" and (expected is None or expected in str(caught.value))


def test_a_component_that_cannot_take_its_state_is_named_and_the_loop_does_not_run(saved):
    class Mine(NST):
        def load_state_dict(self, state):
            raise KeyError("scores")

    state = copy.deepcopy(saved)
    state["flash_pl"]["identity"]["scheduler"] = "Mine"
    settings = {"cohort": 2, "density": 0.3, "accelerator": "cpu", "server_optimizer": FedAvgM()}
    mine = FederatedTrainer(Mine(), rounds=2, **settings)
    loop = mine.loop(module(), data())
    with pytest.raises(ConfigError, match=r"Mine\.load_state_dict .*KeyError: 'scores'"):
        mine.resume(loop, state)
    with pytest.raises(ConfigError, match="only a part"):
        mine.run(loop)
