"""One client after the other: the next one finds the server's weights and nothing of the client before."""

import pytest
import torch

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import Callback, Checkpoint
from flash_pl.errors import ModuleError
from flash_pl.loops import server_model


def test_a_layer_in_evaluation_mode_stays_in_it(fit, unaware, tiny_data):
    module = unaware()
    module.net[1].eval()
    statistics = module.net[1].running_mean.clone()
    fit(module, tiny_data)
    assert torch.equal(module.net[1].running_mean, statistics) and not module.net[1].training and module.net[0].training


def test_counters_do_not_pass_from_client_to_client(fit, unaware, tiny_data):
    counts = []

    class Spy(Callback):
        def on_client_end(self, loop, update):
            counts.append(int(loop.client.module.net[1].num_batches_tracked))

    fit(unaware(), tiny_data, cohort=3, callbacks=[Spy()])
    assert counts == [3, 3, 3]


def test_nothing_passes_from_client_to_client(fit, unaware, tiny_data):
    """Every client starts with the same frozen weights and modes of layers, and without gradients."""
    seen = []

    class Switches(unaware):
        def on_train_start(self):
            flags = [parameter.requires_grad for parameter in self.parameters()]
            modes = [part.training for part in self.modules()]
            seen.append((flags, modes, [parameter.grad for parameter in self.parameters()]))

        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.net[6].bias.requires_grad_(False)
                self.net[1].eval()

    fit(Switches(), tiny_data, cohort=3, local_epochs=2)
    assert len(seen) == 1 + 3 and all(state == seen[0] for state in seen)
    assert all(grad is None for grad in seen[0][2])


def replacing_parameters(base):
    class Module(base):
        def on_train_batch_end(self, outputs, batch, batch_idx):
            for parameter in self.parameters():
                parameter.data = parameter.data.clamp(-1, 1)

    return Module(), "net.0.weight"


def replacing_a_buffer_in_training(base):
    class Module(base):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean_loss", torch.zeros(1))

        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.mean_loss = 0.9 * self.mean_loss + 0.1 * loss.detach()
            return loss

    return Module(), "mean_loss"


def replacing_a_buffer_in_validation(base):
    class Module(base):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(1, dtype=torch.int64))

        def validation_step(self, batch, batch_idx):
            self.steps = self.steps + 1
            super().validation_step(batch, batch_idx)

    return Module(), "steps"


@pytest.mark.parametrize(
    "kind", [replacing_parameters, replacing_a_buffer_in_training, replacing_a_buffer_in_validation]
)
def test_a_tensor_that_replaces_another_is_refused(fit, kind, unaware, tiny_data):
    """The new tensor would not be part of the arena, so it would not be sent, averaged or evaluated."""
    module, name = kind(unaware)
    with pytest.raises(ModuleError, match=rf"^{name} was replaced .* in place"):
        fit(module, tiny_data)


@pytest.fixture
def shuffling(unaware):
    """A module with a buffer outside of the arena, a random permutation of its images, and with an extra state."""

    class Shuffling(unaware):
        def __init__(self, places=64):
            super().__init__()
            self.register_buffer("places", torch.randperm(places))
            self.note = "new"

        def forward(self, x):
            return super().forward(x.flatten(1)[:, self.places].view_as(x))

        def get_extra_state(self):
            return {"note": self.note}

        def set_extra_state(self, state):
            self.note = state["note"]

    return Shuffling


def trainer(folder=None, rounds=2):
    callbacks = [Checkpoint(folder)] if folder else []
    return FederatedTrainer(PDST(), density=0.3, rounds=rounds, cohort=2, accelerator="cpu", callbacks=callbacks)


def test_a_resumed_or_validated_run_has_its_own_local_buffers(shuffling, tiny_data, tmp_path):
    first = shuffling()
    first.note = "old"
    trainer(tmp_path).fit(first, tiny_data)
    expected = trainer().validate(first, tiny_data)
    other = shuffling()
    assert not torch.equal(other.places, first.places)
    metrics = trainer(tmp_path).validate(other, tiny_data, ckpt_path="last")
    assert all(metrics[name] == expected[name] for name in expected)
    assert torch.equal(other.places, first.places) and other.note == "old"
    resumed = shuffling()
    loop = trainer(tmp_path, rounds=3).fit(resumed, tiny_data, ckpt_path="last")
    assert torch.equal(resumed.places, first.places)
    assert "places" in server_model(loop).tensors and "_extra_state" not in server_model(loop).tensors


def test_local_buffers_of_another_shape_are_refused(shuffling, tiny_data, tmp_path):
    trainer(tmp_path).fit(shuffling(), tiny_data)
    with pytest.raises(ModuleError, match=r"^places .*\[64\].*\[65\]"):
        trainer(tmp_path).fit(shuffling(places=65), tiny_data, ckpt_path="last")
