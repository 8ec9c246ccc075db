"""A client that fails: by an exception, a loss or weights that are not finite, no samples."""

import re

import pytest
import torch

from flash_pl import JMWST, NST, PDST, ConfigError, FederatedTrainer
from flash_pl.callbacks import Callback, History
from flash_pl.costs import WireFormat
from flash_pl.errors import ClientError, ServerError
from flash_pl.loops import EvaluationSchedule, FaultPolicy
from flash_pl.schedulers import Sensitivity


def trainer(policy=None, scheduler=None, **settings):
    settings = {"rounds": 4, "cohort": 4} | settings
    scheduler = scheduler or PDST()
    return FederatedTrainer(scheduler, density=0.3, accelerator="cpu", faults=policy, seed=1, **settings)


def fragile(base, fail, clients=(3,)):
    """A module that fails in its own way on some clients."""

    class Fragile(base):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return fail(self, loss) if self._client.context.client in clients else loss

    return Fragile()


def raising(module, loss):
    raise ValueError("cannot")


def infinite_loss(module, loss):
    return loss * float("inf")


def infinite_weights(module, loss):
    with torch.no_grad():
        module.net[0].bias.fill_(float("nan"))
    return None


def too_large(module, loss):
    with torch.no_grad():
        module.net[0].bias.fill_(1e9)
    return None


FAULTS = [
    (raising, "ValueError: cannot"),
    (infinite_loss, "training diverged: its loss is not finite"),
    (infinite_weights, "training diverged: its weights cannot be summed, net.0.bias: "),
    (too_large, "training diverged: its weights cannot be summed, net.0.bias: "),
]


@pytest.mark.parametrize("fail, words", FAULTS)
def test_by_default_the_run_ends_with_client_round_and_cause(fail, words, unaware, tiny_data):
    with pytest.raises(ClientError, match=r"^client 3 in round \d: ") as caught:
        trainer().fit(fragile(unaware, fail), tiny_data)
    assert words in str(caught.value)


def test_an_exception_tells_where_it_came_from(unaware, tiny_data):
    with pytest.raises(ClientError) as caught:
        trainer().fit(fragile(unaware, raising), tiny_data)
    assert "test_faults.py:" in str(caught.value) and "Traceback" in caught.value.trace


def test_a_move_that_cannot_work_with_diverged_weights_is_not_the_cause(unaware, tiny_data):
    """The message has client, round, learning rate, and the largest weights before and after."""

    def diverging(module, loss):
        return loss * 1e30

    with pytest.raises(ClientError, match="^client 3 in round 2: training diverged: ") as caught:
        trainer(scheduler=NST()).fit(fragile(unaware, diverging), tiny_data)
    message = str(caught.value)
    assert "not finite" in message and "learning rate 0.1, " in message and "smaller lr" in message
    assert re.search(r"largest finite weight \S+\)|no weight is finite", message)
    assert not caught.value.trace


def test_an_error_of_a_client_that_has_not_diverged_keeps_its_own_words(unaware, tiny_data):
    class Failing(PDST):
        def on_batch_end(self, client, step):
            raise ValueError("mine")

    with pytest.raises(ClientError, match="ValueError: mine") as caught:
        trainer(scheduler=Failing()).fit(unaware(), tiny_data)
    assert "diverged" not in str(caught.value)


@pytest.mark.parametrize("fail, words", FAULTS)
def test_a_skipped_client_leaves_no_trace_in_the_server(fail, words, unaware, tiny_data):
    """The server is that of a run whose cohorts never had the client."""

    class Without(type(trainer().sampler)):
        def __call__(self, population, cohort, seed, round):
            return [client for client in super().__call__(population, cohort, seed, round) if client != 3]

    seen = []

    class Watch(Callback):
        def on_client_error(self, loop, failure):
            seen.append(failure)

    runs = []
    for policy, sampler in ((FaultPolicy("skip"), None), (None, Without())):
        torch.manual_seed(0)
        module = fragile(unaware, fail) if policy else unaware()
        runs.append(trainer(policy, sampler=sampler, callbacks=[Watch()]).fit(module, tiny_data))
    faulty, without = runs
    assert torch.equal(faulty.server.weights, without.server.weights)
    assert faulty.failed == len(seen) > 0 and all(failure.client == 3 and words in failure.reason for failure in seen)
    assert faulty.metrics["failed"] in (0, 1)


def test_a_round_with_too_few_clients_is_repeated_with_others(unaware, tiny_data):
    """Half of the clients fail; three of four must remain, which another cohort may do."""
    policy, history = FaultPolicy("skip", min_clients=3, round_attempts=50), History()
    loop = trainer(policy, callbacks=[history]).fit(fragile(unaware, raising, clients=(0, 1, 2, 3)), tiny_data)
    assert loop.round == 4 and loop.failed > 4
    assert loop.metrics["participants"] >= 3
    sent, each = (
        history["messages_up"],
        {b / n for b, n in zip(history["bytes_up"], history["messages_up"], strict=True)},
    )
    assert len(each) == 1 and sum(sent) > sum(history["participants"])  # all messages have one length


def test_what_an_attempt_has_cost_is_on_the_bill(unaware, tiny_data):
    """Reports of clients whose round is repeated were sent, too."""
    sent = {"reports": 0, "bytes_up": 0, "counted": 0}

    class Sum(Callback):
        def on_client_end(self, loop, update):
            sent["reports"] += 1
            sent["bytes_up"] += update.costs["bytes_up"]

        def on_round_end(self, loop, row):
            sent["counted"] += row["participants"]

    policy = FaultPolicy("skip", min_clients=3, round_attempts=50)
    loop = trainer(policy, callbacks=[Sum()]).fit(fragile(unaware, raising, clients=(0, 1, 2, 3)), tiny_data)
    assert sent["reports"] > sent["counted"], "some attempt must have been repeated"
    assert loop.ledger.totals["bytes_up"] == sent["bytes_up"]


def test_a_round_that_never_succeeds_ends_the_run(unaware, tiny_data):
    policy = FaultPolicy("skip", min_clients=2, round_attempts=3)
    with pytest.raises(ClientError, match="0 of 4 clients remained, min_clients is 2, after 3 attempts; client"):
        trainer(policy).fit(fragile(unaware, raising, clients=range(8)), tiny_data)


def test_stage_1_skips_clients_too_and_fails_only_without_any(unaware, tiny_data):
    def settings():
        return JMWST(sensitivity=Sensitivity(init_fraction=1.0, epochs=1))

    policy = FaultPolicy("skip")
    assert trainer(policy, settings()).fit(fragile(unaware, raising), tiny_data).round == 4
    with pytest.raises(ClientError, match="client 3 in stage 1"):
        trainer(None, settings()).fit(fragile(unaware, raising), tiny_data)
    with pytest.raises(ClientError, match="all 8 clients of stage 1 failed"):
        trainer(policy, settings()).fit(fragile(unaware, raising, clients=range(8)), tiny_data)


def test_a_client_without_samples_is_a_fault(unaware, tiny_data):
    tiny_data.setup()
    tiny_data._train_parts[3] = tiny_data._train_parts[3][:0]
    with pytest.raises(ClientError, match="client 3 in round .: it has no samples"):
        trainer().fit(unaware(), tiny_data)
    assert trainer(FaultPolicy("skip")).fit(unaware(), tiny_data).failed > 0


@pytest.mark.parametrize(
    "settings",
    [{"on_client_error": "ignore"}, {"min_clients": 0}, {"round_attempts": 0}],
    ids=lambda one: next(iter(one)),
)
def test_impossible_policies_are_named(settings):
    ((key, value),) = settings.items()
    with pytest.raises(ConfigError, match=repr(value)) as error:
        FaultPolicy(**settings)
    assert error.value.key == key


def test_faults_of_a_fine_tuning_follow_the_policy(unaware, tiny_data):
    class Overfit(unaware):
        def training_step(self, batch, batch_idx):
            if self._client.context.purpose == "finetune" and self._client.context.client == 3:
                raise ValueError("cannot")
            return super().training_step(batch, batch_idx)

    schedule = EvaluationSchedule(eval_clients_every=2, finetune_epochs=1)
    with pytest.raises(ClientError, match="client 3 in round 2: ValueError"):
        trainer(evaluate=schedule).fit(Overfit(), tiny_data)
    loop = trainer(FaultPolicy("skip"), evaluate=schedule).fit(Overfit(), tiny_data)
    assert loop.failed == 2 and "val_acc_finetuned" in loop.metrics


def test_a_client_that_cannot_be_evaluated_leaves_the_module_training(unaware, tiny_data):
    modes, rows = [], []

    class Fragile(unaware):
        def validation_step(self, batch, batch_idx):
            if len(batch[0]) < len(tiny_data.val_dataloader().labels):  # a client's part
                raise ValueError("cannot")
            super().validation_step(batch, batch_idx)

        def training_step(self, batch, batch_idx):
            modes.append(self.training and self.net.training)
            return super().training_step(batch, batch_idx)

    class Watch(Callback):
        def on_round_end(self, loop, row):
            rows.append(row["failed"])

    policy, evaluate = FaultPolicy("skip"), EvaluationSchedule(eval_every=4, eval_clients_every=1)
    loop = trainer(policy, evaluate=evaluate, callbacks=[Watch()]).fit(Fragile(), tiny_data)
    assert modes and all(modes)
    assert rows[0] > 0 and sum(rows) == loop.failed


def test_clients_that_fail_in_stage_1_are_reported_too(unaware, tiny_data):
    seen = []

    class Watch(Callback):
        def on_client_error(self, loop, failure):
            seen.append((failure.client, failure.round))

    method = JMWST(sensitivity=Sensitivity(init_fraction=1.0, epochs=1))
    trainer(FaultPolicy("skip"), method, callbacks=[Watch()]).fit(fragile(unaware, raising), tiny_data)
    assert (3, 0) in seen


def large_weight(module, loss):
    with torch.no_grad():
        module.net[0].weight.copy_(7e4 * (module.net[0].weight != 0))
    return None


def infinite_gain(module, loss):
    with torch.no_grad():
        module.net[0].bias.fill_(float("inf"))
    return None


def test_weights_that_the_wire_cannot_carry_are_a_failure_of_the_client(unaware, tiny_data):
    for fail, name, value, values in [
        (large_weight, "net.0.weight", "70000", "fp16"),
        (infinite_gain, "net.0.bias", "inf", "bf16"),
        (infinite_gain, "net.0.bias", "inf", "fp32"),
    ]:
        wire = WireFormat(values, verify=True)
        with pytest.raises(ClientError, match=r"^client 3 in round \d: .*its update cannot be sent") as caught:
            trainer(wire=wire).fit(fragile(unaware, fail), tiny_data)
        assert f"{name} has the value {value}, which" in str(caught.value) and not caught.value.trace
        loop = trainer(FaultPolicy("skip"), wire=wire).fit(fragile(unaware, fail), tiny_data)
        assert loop.failed > 0 and loop.server.weights.isfinite().all()


def test_an_extra_tensor_that_cannot_be_sent_is_a_failure_of_the_client(unaware, tiny_data):
    class Complex(PDST):
        def on_client_end(self, client, context):
            return {"odd": torch.zeros(2, dtype=torch.complex64)}

    with pytest.raises(ClientError, match="its update cannot be sent .*'odd'.*complex64") as caught:
        trainer(scheduler=Complex()).fit(unaware(), tiny_data)
    assert not caught.value.trace


def test_a_server_that_cannot_be_sent_ends_the_run_also_if_clients_are_skipped(unaware, tiny_data):
    class Large(PDST):
        def on_aggregate(self, server, updates, round):
            server.weights[: server.layout.maskable] = 7e4 * server.mask

    sentence = "^the server's model cannot be sent: net.0.* has the value 70000, which fp16 cannot hold"
    with pytest.raises(ServerError, match=sentence):
        trainer(FaultPolicy("skip"), Large(), wire=WireFormat("fp16")).fit(unaware(), tiny_data)
