"""A method whose server half fails: by an exception, or with a mask that is none."""

import pytest
import torch

from flash_pl import PDST, FederatedTrainer
from flash_pl.cli import main
from flash_pl.errors import ClientError, ConfigError, SchedulerError
from flash_pl.server import FedAvg, FedAvgM
from flash_pl.sparsity import SparsityBudget, Tier

HOOKS = ["start", "tier_masks", "on_round_start", "on_aggregate"]


def fit(method, module, data, **settings):
    return FederatedTrainer(method, density=0.3, rounds=2, cohort=2, accelerator="cpu", **settings).fit(module, data)


def with_hook(hook, function):
    """PDST with another hook of the server's half."""
    return type("Broken", (PDST,), {hook: function})()


@pytest.mark.parametrize("hook", HOOKS)
def test_an_error_names_method_hook_round_and_place(hook, unaware, tiny_data):
    def cannot(self, *arguments):
        raise KeyError("conv1")

    with pytest.raises(
        SchedulerError, match=rf"^Broken\.{hook} in round 1: KeyError: 'conv1' \(.*test_server_hooks\.py:"
    ) as caught:
        fit(with_hook(hook, cannot), unaware(), tiny_data)
    assert "Traceback" in caught.value.trace and isinstance(caught.value.__cause__, KeyError)


def test_settings_that_cannot_work_stay_settings(unaware, tiny_data):
    def refuses(self, *arguments):
        raise ConfigError("scheduler.rate", 2, "less than 1")

    with pytest.raises(ConfigError, match="^scheduler.rate: 2"):
        fit(with_hook("on_aggregate", refuses), unaware(), tiny_data)


MASKS = [
    (lambda mask: mask.float(), r"torch\.float32 of shape"),
    (lambda mask: mask[1:], r"torch\.bool of shape \(\d+,\), not torch\.bool of shape"),
    (lambda mask: mask[:, None], r"torch\.bool of shape \(\d+, 1\)"),
    (lambda mask: None, "NoneType, not torch.bool"),
]


@pytest.mark.parametrize("change, words", MASKS)
def test_a_mask_that_is_none_is_refused_where_it_was_made(change, words, unaware, tiny_data):
    def leaves(self, server, updates, round):
        server.mask = change(server.mask)

    with pytest.raises(SchedulerError, match=rf"^Broken\.on_aggregate in round 1: its mask is {words}"):
        fit(with_hook("on_aggregate", leaves), unaware(), tiny_data)


@pytest.mark.parametrize("change, words", MASKS[:3])
def test_so_is_a_first_mask(change, words, unaware, tiny_data):
    def makes(self, server, measured, generator):
        return change(PDST.initial_mask(self, server, measured, generator))

    with pytest.raises(SchedulerError, match=rf"^Broken\.start in round 1: its mask is {words}"):
        fit(with_hook("initial_mask", makes), unaware(), tiny_data)
    with pytest.raises(SchedulerError, match=r"^Broken\.start in round 1: .*initial_mask returns NoneType, not a mask"):
        fit(with_hook("initial_mask", lambda *arguments: None), unaware(), tiny_data)


def one_number(self):
    return FedAvg.mean(self)[:1]


def nothing(self):
    return None


def not_a_number(self):
    return FedAvg.mean(self) / 0.0 * 0.0


AVERAGES = [
    (one_number, r"the server's weights are a tensor of shape \(1,\), not a tensor of shape \(\d+,\)"),
    (nothing, "the server's weights are NoneType"),
    (not_a_number, r"\d+ of the server's \d+ weights are not finite"),
]


@pytest.mark.parametrize("mean, words", AVERAGES)
def test_an_average_that_is_no_model_ends_the_run_in_its_last_round_too(mean, words, unaware, tiny_data):
    aggregator = type("Odd", (FedAvg,), {"mean": mean})()
    with pytest.raises(SchedulerError, match=rf"^Odd\.mean in round 1: {words}"):
        FederatedTrainer(PDST(), rounds=1, cohort=2, aggregator=aggregator, accelerator="cpu").fit(unaware(), tiny_data)


def test_so_do_weights_that_a_hook_or_a_server_optimizer_has_spoilt(unaware, tiny_data):
    def spoils(self, server, updates, round):
        server.weights[server.layout.others[0].start] = float("nan")

    with pytest.raises(SchedulerError, match=r"^Broken\.on_aggregate in round 1: 1 of the server's \d+ weights "):
        fit(with_hook("on_aggregate", spoils), unaware(), tiny_data)
    with pytest.raises(SchedulerError, match=r"^FedAvgM\.step in round \d: \d+ of the server's \d+ weights "):
        fit(PDST(), unaware(), tiny_data, server_optimizer=FedAvgM(lr=1e39))


@pytest.mark.parametrize("hook, value", [("layer_rates", -1.0), ("trained_densities", float("nan"))])
def test_numbers_of_layers_are_finite_and_not_negative(hook, value, unaware, tiny_data):
    def numbers(self, client):
        return torch.full((len(client.layout.layers),), value, dtype=torch.float64)

    with pytest.raises(ClientError, match=rf"Broken\.{hook} returns {value} for a layer"):
        fit(with_hook(hook, numbers), unaware(), tiny_data)


@pytest.mark.parametrize("value, words", [(None, "null"), (torch.ones(2), "an object of class Tensor")])
def test_masks_of_tiers_come_in_a_list(value, words, unaware, tiny_data):
    with pytest.raises(SchedulerError, match=rf"^Broken\.tier_masks in round 1: it returns {words}, not a list"):
        fit(with_hook("tier_masks", lambda self, server, ratios: value), unaware(), tiny_data)


def test_there_is_a_mask_for_every_tier(unaware, tiny_data):
    budget = SparsityBudget([Tier(0.1, 0.5), Tier(0.3, 0.5)])
    with pytest.raises(SchedulerError, match=r"^Broken\.tier_masks in round 1: 1 masks for 2 tiers$"):
        fit(with_hook("tier_masks", lambda self, server, ratios: [server.mask]), unaware(), tiny_data, budget=budget)


def test_a_run_ends_in_one_line_keeps_its_checkpoint_and_the_traceback(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "breaks.py").write_text(
        "from flash_pl import PDST\n\n\nclass Breaks(PDST):\n    def on_aggregate(self, server, updates, round):\n"
        "        super().on_aggregate(server, updates, round)\n        1 / (2 - round)\n"
    )
    arguments = ["scheduler=breaks.Breaks", "rounds=5", "run_dir=run", "trainer.checkpoint_every=1"]
    assert main(["fit", "pdst", *arguments, "trainer.progress=false"]) == 3
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("flash-pl: error"))
    assert "Breaks.on_aggregate in round 3: ZeroDivisionError" in line and "run/errors.log" in line
    assert "1 / (2 - round)" in (tmp_path / "run" / "errors.log").read_text()
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["flash_pl"]["round"] == 2
