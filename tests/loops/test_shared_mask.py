"""Server, tiers and clients share their masks: a scheduler that changes one in place ends the run, and is named."""

import pytest
import torch

from flash_pl import PDST, FederatedTrainer
from flash_pl.errors import ClientError, SchedulerError
from flash_pl.loops import EvaluationSchedule, FaultPolicy


def fit(hooks, make, data, **settings):
    torch.manual_seed(0)
    method = type("Editor", (PDST,), hooks)()
    return FederatedTrainer(method, density=0.3, rounds=2, cohort=2, accelerator="cpu", **settings).fit(make(), data)


def on_aggregate(self, server, updates, round):
    server.mask[:5] = True


def on_round_start(self, server, tier_masks, round):
    tier_masks[-1].logical_not_()


def initial_mask_in_place(self, server, measured, generator):
    server.mask &= PDST.initial_mask(self, server, measured, generator)
    return server.mask


SERVER_HOOKS = {"on_aggregate": on_aggregate, "on_round_start": on_round_start, "initial_mask": initial_mask_in_place}


@pytest.mark.parametrize("hook", SERVER_HOOKS)
def test_a_hook_of_the_server(hook, unaware, tiny_data):
    where = "start" if hook == "initial_mask" else hook
    message = rf"^Editor\.{where} in round 1: a mask was changed in place .*; make a new tensor$"
    with pytest.raises(SchedulerError, match=message):
        fit({hook: SERVER_HOOKS[hook]}, unaware, tiny_data)


def on_batch_end(self, client, step):
    client.mask[:5] = True


def on_client_end(self, client, context):
    client.mask.zero_()
    return {}


def move_to_itself(self, client, step):
    client.mask[:5] = True
    client.move_mask_(client.mask, client.mask)


CLIENT_HOOKS = {"on_batch_end": on_batch_end, "on_client_end": on_client_end, "on_client_start": on_client_end}


@pytest.mark.parametrize("policy", ["raise", "skip"])
@pytest.mark.parametrize("hook, function", [*CLIENT_HOOKS.items(), ("on_batch_end", move_to_itself)])
def test_a_hook_of_a_client_though_failing_clients_are_skipped(hook, function, policy, unaware, tiny_data):
    """The server's mask is spoilt, so to skip the client does not help."""
    with pytest.raises(SchedulerError, match=r"^Editor: a mask was changed in place .*; use client\.move_mask_$"):
        fit({hook: function}, unaware, tiny_data, faults=FaultPolicy(on_client_error=policy))


def test_a_client_that_fails_after_it(unaware, tiny_data):
    def spoils_and_fails(self, client, step):
        client.mask[:5] = True
        raise ValueError

    with pytest.raises(SchedulerError, match="^Editor: a mask was changed in place"):
        fit({"on_batch_end": spoils_and_fails}, unaware, tiny_data, faults=FaultPolicy(on_client_error="skip"))


@pytest.mark.parametrize("hook", ["client_mask", "deployed_mask"])
def test_the_mask_of_a_tier(hook, unaware, tiny_data):
    def edits(self, tier_mask, previous_mask, context):
        return tier_mask.logical_not_()

    message = rf"^Editor\.{hook}: a mask was changed in place .*; make a new tensor$"
    with pytest.raises(SchedulerError, match=message):
        fit({hook: edits}, unaware, tiny_data, evaluate=EvaluationSchedule(eval_clients_every=1))


def test_a_mask_of_inference_mode_is_one_like_others(unaware, tiny_data):
    @torch.inference_mode()
    def makes(self, server, measured, generator):
        return PDST.initial_mask(self, server, measured, generator)

    first, second = (fit(hooks, unaware, tiny_data) for hooks in ({"initial_mask": makes}, {}))
    assert first.metrics.keys() == second.metrics.keys() and torch.equal(first.server.mask, second.server.mask)


def test_a_hook_that_gives_the_client_other_tensors(unaware, tiny_data):
    def sets_weights(self, client, step):
        client.weights = client.weights / 2

    def sets_mask(self, client, step):
        client.mask = ~client.mask

    for hook in (sets_weights, sets_mask):
        with pytest.raises(ClientError, match=r"ClientState\.(weights|mask) cannot be another tensor; .*\.py:"):
            fit({"on_batch_end": hook}, unaware, tiny_data)


def test_a_hook_may_change_the_weights_in_place(unaware, tiny_data):
    def halves(self, client, step):
        client.weights *= 0.5

    def halves_too(self, client, step):
        client.weights.mul_(0.5)

    first, second = (fit({"on_batch_end": hook}, unaware, tiny_data) for hook in (halves, halves_too))
    assert torch.equal(first.server.weights, second.server.weights)
