"""Schedulers that each break one rule, and what the contract says of them."""

import os
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from flash_pl import NST
from flash_pl.errors import Interrupted
from flash_pl.schedulers import SparseScheduler
from flash_pl.sparsity import Gradient, KeepLayers, Move, top_k
from flash_pl.testing import check_scheduler

NOT_BOOL = r"its mask is torch.float32 of shape \(944,\), not torch.bool of shape \(944,\)"
CHANGED = "a client's hooks have changed the server, or a mask of a tier"
SECOND, SPREAD = "a second run, with other states of the global generators", "a run with a process for each client"
TWICE, CHECKPOINT = "a run whose rounds start twice", "a run that goes on from a checkpoint"
BROKEN = {}


def broken(message):
    def register(cls):
        BROKEN[cls] = message
        return cls

    return register


def drop_one(mask, place=0):
    """In place."""
    mask[mask.nonzero()[place]] = False
    return mask


def by_chance(server, scores):
    server.mask = top_k(scores, int(server.mask.count_nonzero()))
    server.prune_()


@broken(SPREAD)
class RemembersAClient(SparseScheduler):
    last = 0.0

    def on_client_start(self, client, context):
        client.weights.mul_(1 + 0.01 * self.last)

    def on_client_end(self, client, context):
        self.last = float(client.weights.abs().mean())
        return {}


@broken(SPREAD)
class RemembersAClientElsewhere(RemembersAClient):
    def on_client_start(self, client, context):
        client.weights.mul_(1 + 0.01 * getattr(client, "last", 0.0))

    def on_client_end(self, client, context):
        client.last = float(client.weights.abs().mean())
        return {}


@broken(SPREAD)
class RemembersWhoCameFirst(SparseScheduler):
    def on_round_start(self, server, tier_masks, round):
        self.first = None

    def client_mask(self, tier_mask, previous_mask, context):
        self.first = context.client if self.first is None else self.first
        return tier_mask if context.client == self.first else drop_one(tier_mask.clone())


@broken(SPREAD)
class ServerSeesClients(SparseScheduler):
    def on_round_start(self, server, tier_masks, round):
        self.seen = []

    def on_client_end(self, client, context):
        self.seen.append(client.weights.clone())
        return {}

    def on_aggregate(self, server, updates, round):
        server.weights.mul_(1 - 0.01 * len(self.seen))
        server.prune_()


@broken(SECOND)
class FirstMaskByChance(SparseScheduler):
    def initial_mask(self, server, measured, generator):
        layout = server.layout
        return top_k(torch.rand(layout.maskable), round(server.density * layout.maskable))


@broken(SECOND)
class ServerByChance(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        by_chance(server, torch.rand(server.layout.maskable))


@broken(SECOND)
class ServerByChanceOfNumpy(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        by_chance(server, torch.from_numpy(np.random.rand(server.layout.maskable)))


@broken(SECOND)
class ClientMaskByChance(SparseScheduler):
    def client_mask(self, tier_mask, previous_mask, context):
        return tier_mask & (torch.rand(len(tier_mask)) < 0.9)


@broken(SECOND)
class ByTheClock(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        chance = torch.Generator().manual_seed(time.time_ns())
        by_chance(server, torch.rand(server.layout.maskable, generator=chance))


@broken(TWICE)
class CountsStarts(SparseScheduler):
    starts = 0

    def on_round_start(self, server, tier_masks, round):
        self.starts += 1

    def on_aggregate(self, server, updates, round):
        server.weights.mul_(0.9 if self.starts % 2 else 1.0)
        server.prune_()

    def state_dict(self):
        return {"starts": self.starts}

    def load_state_dict(self, state):
        self.starts = state["starts"]


@broken(CHECKPOINT)
class ForgetsItsState(SparseScheduler):
    before = 0.0

    def on_aggregate(self, server, updates, round):
        server.weights.add_(self.before, alpha=0.1)
        server.prune_()
        self.before = server.weights.clone()


@broken(CHECKPOINT)
class OffersWhatWas(SparseScheduler):
    """Clients are evaluated before the next round starts."""

    def on_round_start(self, server, tier_masks, round):
        self.offer = tier_masks[-1]

    def client_mask(self, tier_mask, previous_mask, context):
        return self.offer


@broken("a run without gradients of pruned weights in steps")
class DoesNotAskForGradients(NST):
    def __init__(self):
        super().__init__(move=Move(growth=Gradient(), redistribution=KeepLayers()))

    def wants_dense_gradients(self, client, step):
        return False

    def on_gradients(self, client, step):
        self.gradient = client.gradients()


@broken(NOT_BOOL)
class MaskOfNumbers(SparseScheduler):
    def client_mask(self, tier_mask, previous_mask, context):
        return tier_mask.float()


@broken(r"SchedulerError: ServerMaskOfNumbers\.on_aggregate in round 1: " + NOT_BOOL)
class ServerMaskOfNumbers(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        server.mask = server.mask.float()


@broken("the server's mask has 190 weights; density 0.2 allows 189")
class ServerMaskGrows(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        server.mask = ~drop_one(~server.mask)


@broken("a client of tier 0 has 190 weights; density 0.2 allows 189")
class ClientMaskGrows(SparseScheduler):
    def client_mask(self, tier_mask, previous_mask, context):
        return ~drop_one(~tier_mask)


@broken("the server's mask has 283 weights")
class TooDense(SparseScheduler):
    def initial_mask(self, server, measured, generator):
        return self.first_mask(server.layout, server.weights, 1.5 * server.density, measured, generator)


@broken("1 weights outside of a client's mask are not 0")
class WeightsOutside(SparseScheduler):
    def on_client_end(self, client, context):
        client.weights[(~client.mask).nonzero()[0]] = 1.0
        return {}


@broken("ComputesOutside.forward_weights returns 0.01 for a weight outside of the mask")
class ComputesOutside(SparseScheduler):
    def forward_weights(self, client):
        return client.weights + 0.01


@broken("weights cannot be summed")
class ClientNotFinite(SparseScheduler):
    def on_client_end(self, client, context):
        client.weights[client.mask] = torch.nan
        return {}


@broken("the server's weights are not finite")
class ServerNotFinite(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        server.weights[server.layout.maskable :] = torch.inf


@broken("the masks of the tiers are not nested")
class TiersApart(SparseScheduler):
    def tier_masks(self, server, ratios):
        *smaller, largest = super().tier_masks(server, ratios)
        return [*(mask.roll(1) for mask in smaller), largest]


@broken("a client of tier 1 has 189 weights; density 0.15 allows 142")
class TiersEqual(SparseScheduler):
    def tier_masks(self, server, ratios):
        return [server.mask for _ in ratios]


@broken(r"SchedulerError: TiersMissing\.tier_masks in round 1: 1 masks for 3 tiers")
class TiersMissing(SparseScheduler):
    def tier_masks(self, server, ratios):
        return [server.mask]


@broken("ChangesAMaskOfATier.client_mask: a mask was changed in place")
class ChangesAMaskOfATier(SparseScheduler):
    def client_mask(self, tier_mask, previous_mask, context):
        return drop_one(tier_mask, context.client)


@broken("ChangesItsMaskInPlace: a mask was changed in place")
class ChangesItsMaskInPlace(SparseScheduler):
    def on_batch_end(self, client, step):
        drop_one(client.mask, client.context.client)
        client.weights.mul_(client.mask)


@broken(CHANGED)
class ClientWritesToTheServer(SparseScheduler):
    def on_round_start(self, server, tier_masks, round):
        self.server = server

    def on_client_end(self, client, context):
        self.server.weights.mul_(0.99)
        return {}


@broken("ClientState.mask cannot be another tensor; move it by client.move_mask_")
class SetsItsMask(SparseScheduler):
    def on_client_end(self, client, context):
        _ = client.densities
        client.mask = drop_one(client.mask.clone())
        return {}


@broken("ClientState.weights cannot be another tensor; change it in place")
class SetsItsWeights(SparseScheduler):
    def on_batch_end(self, client, step):
        client.weights = client.weights * 0.99


@broken("ScalesTooLate: use client.scale_gradients_ in on_gradients only")
class ScalesTooLate(SparseScheduler):
    def on_batch_end(self, client, step):
        client.scale_gradients_(client.weights.abs())


@broken("the server's mask has no weight")
class StartsWithNothing(SparseScheduler):
    def initial_mask(self, server, measured, generator):
        return torch.zeros_like(server.mask)


@broken("the server has changed the mask of an update")
class ChangesUpdates(SparseScheduler):
    def client_mask(self, tier_mask, previous_mask, context):
        return tier_mask.clone()

    def on_aggregate(self, server, updates, round):
        drop_one(updates[0].mask)
        server.prune_()


@broken("'mean' of SendsANumber.on_client_end is not a tensor")
class SendsANumber(SparseScheduler):
    def on_client_end(self, client, context):
        return {"mean": float(client.weights.mean())}


@broken("a tensor .* of torch.complex64 cannot be encoded")
class SendsWhatCannotBeSent(SparseScheduler):
    def on_client_end(self, client, context):
        return {"spectrum": torch.fft.fft(client.weights)}


@broken("leave a trace on model.conv2:")
class LeavesAHook(SparseScheduler):
    @contextmanager
    def training(self, client):
        client.module.model.conv2.register_forward_hook(lambda layer, inputs, output: None)
        yield


@broken("leave a trace on model.conv2.weight:")
class LeavesAHookOnAWeight(SparseScheduler):
    def on_client_start(self, client, context):
        client.module.model.conv2.weight.register_post_accumulate_grad_hook(lambda weight: None)


@broken("pruned weights of model.conv2.weight are not 0: Classifier or WritesOutside has changed them")
class WritesOutside(SparseScheduler):
    """What is pruned before the update, but not before the next step."""

    def on_batch_end(self, client, step):
        client.weights[~client.mask] = 0.1


@broken("the evaluation of a client of tier 0 has 944 weights; density 0.2 allows 189")
class DeploysEverything(SparseScheduler):
    def deployed_mask(self, tier_mask, previous_mask, context):
        return torch.ones_like(tier_mask)


@broken("leave a trace on model.norm:")
class LeavesALayerInEvaluation(SparseScheduler):
    def on_client_start(self, client, context):
        client.module.model.norm.eval()


@broken("leave a trace on model.norm.weight:")
class LeavesAWeightFrozen(SparseScheduler):
    def on_client_start(self, client, context):
        client.module.model.norm.weight.requires_grad_(False)


@broken(r"trained_densities are not numbers in \[0, 1\]")
class CountsTooMuch(SparseScheduler):
    def trained_densities(self, client):
        return super().trained_densities(client) * 10


@broken(r"a first run ends with SchedulerError: Fails\.on_aggregate in round 1: ZeroDivisionError")
class Fails(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        server.weights.mul_(1 / round)


@pytest.mark.slow
@pytest.mark.parametrize("cls", BROKEN, ids=lambda cls: cls.__name__)
def test_a_broken_rule_is_named(cls):
    with pytest.raises(AssertionError, match=BROKEN[cls]):
        check_scheduler(cls)


class IsStopped(SparseScheduler):
    def on_aggregate(self, server, updates, round):
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_signal_stops_the_check():
    with pytest.raises(Interrupted, match="SIGTERM"):
        check_scheduler(IsStopped)
