"""What ``self.trainer`` answers in a federated run, what it refuses, and that it is Lightning's own outside of one."""

import copy
import pickle

import lightning as L
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from flash_pl import PDST, Classifier, FederatedTrainer, ModuleError
from flash_pl.data import Synthetic
from flash_pl.loops import CapturedLoop, FaultPolicy
from flash_pl.testing.variants import RecordedSteps


def asking(base, hook, ask):
    """A module that collects the answers to ``ask(module)`` whenever ``hook`` is called."""
    answers = []

    def method(self, *args, **kwargs):
        if not self.trainer.sanity_checking:
            answers.append(ask(self))
        return getattr(super(Asking, self), hook)(*args, **kwargs)

    Asking = type("Asking", (base,), {hook: method})
    return Asking(), answers


@pytest.mark.parametrize("hook", ["configure_optimizers", "on_train_start", "training_step", "on_train_end"])
def test_facts_of_a_client_in_every_hook(hook, fit, unaware, tiny_data):
    def ask(module):
        trainer = module.trainer
        return trainer.max_epochs, trainer.num_training_batches, trainer.estimated_stepping_batches, trainer.max_steps

    module, answers = asking(unaware, hook, ask)
    fit(module, tiny_data, local_epochs=2)
    assert answers and set(answers) == {(2, 3, 6, 6)}  # 20 samples in batches of 8


def test_facts_of_the_run(fit, unaware, tiny_data):
    names = ["world_size", "global_rank", "local_rank", "is_global_zero", "precision", "training", "validating"]
    names += ["sanity_checking", "logger", "loggers", "datamodule", "accumulate_grad_batches"]
    module, answers = asking(
        unaware, "on_train_batch_end", lambda m: [getattr(m.trainer, name) for name in names] + [m.global_rank]
    )
    fit(module, tiny_data, precision="bf16-mixed")
    assert answers[0] == [1, 0, 0, True, "bf16-mixed", True, False, False, None, [], tiny_data, 1, 0]
    module, answers = asking(unaware, "validation_step", lambda m: (m.trainer.training, m.trainer.validating))
    fit(module, tiny_data)
    assert set(answers) == {(False, True)}


def test_a_step_before_the_run_is_only_tried(fit, unaware, tiny_data):
    """It calls the hooks of a training, and leaves neither weights nor statistics of batch norms behind."""
    seen = []

    class Normed(unaware):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def training_step(self, batch, batch_idx):
            state = [tensor.clone() for tensor in self.state_dict().values()]
            seen.append((self.trainer.sanity_checking, self.trainer.global_step, state))
            return super().training_step((self.norm(batch[0]), batch[1]), batch_idx)

        def on_validation_start(self):
            assert not self.trainer.sanity_checking

    fit(Normed(), tiny_data, density=1.0, cohort=1)
    assert [(tried, step) for tried, step, _ in seen] == [(True, 0), (False, 0), (False, 1), (False, 2)]
    torch.testing.assert_close(seen[1][2], seen[0][2], rtol=0, atol=0)


def test_the_step_that_is_tried_leaves_no_trace_in_the_module(fit, unaware, tiny_data):
    """Its Python attributes run on from the module as it was given, with or without a ``validation_step``."""

    class Remembers(unaware):
        def __init__(self):
            super().__init__()
            self.steps, self.losses, self.draws = 0, [], torch.Generator().manual_seed(1)
            self.mean, self.hidden = torch.zeros(()), [nn.Linear(1, 1)]

        def training_step(self, batch, batch_idx):
            self.steps += 1
            with torch.no_grad():
                self.hidden[0].weight.add_(1)
            loss = super().training_step(batch, batch_idx) * self.steps
            self.mean.mul_(0.5).add_(loss.detach() + torch.rand((), generator=self.draws))
            self.losses.append(loss.item())
            return loss + self.mean

    class Untried(Remembers):
        validation_step = L.LightningModule.validation_step

    torch.manual_seed(1)
    modules = Remembers(), Untried()
    modules[1].load_state_dict(modules[0].state_dict())
    for module in modules:
        module.hidden[0].weight.data.zero_()
    weights = [fit(module, tiny_data, cohort=1).server.weights for module in modules]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)
    for module in modules:
        assert module.steps == len(module.losses) == module.hidden[0].weight.item() == 3
    assert modules[0].losses == modules[1].losses and modules[0].mean == modules[1].mean
    assert modules[0].draws.get_state().equal(modules[1].draws.get_state())


def test_steps_and_epochs_are_counted(fit, unaware, tiny_data):
    module, answers = asking(
        unaware, "training_step", lambda m: (m.trainer.current_epoch, m.trainer.global_step, m.global_step)
    )
    fit(module, tiny_data, cohort=1, local_epochs=2)
    assert answers == [(step // 3, step, step) for step in range(6)]


@pytest.mark.parametrize("schedule", ["one cycle", "cosine"])
def test_learning_rate_schedules_over_the_whole_training(schedule, fit, unaware, tiny_data):
    rates = []

    class Scheduled(unaware):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            if schedule == "one cycle":
                by_step = OneCycleLR(optimizer, 0.1, total_steps=self.trainer.estimated_stepping_batches)
                return [optimizer], [{"scheduler": by_step, "interval": "step"}]
            return [optimizer], [CosineAnnealingLR(optimizer, self.trainer.max_epochs)]

        def training_step(self, batch, batch_idx):
            self.note_rate()
            return super().training_step(batch, batch_idx)

        def on_train_end(self):
            self.note_rate()

        def note_rate(self):
            if not self.trainer.sanity_checking:
                rates.append(self.optimizers().param_groups[0]["lr"])

    fit(Scheduled(), tiny_data, cohort=1, local_epochs=2)
    if schedule == "one cycle":
        assert rates[5] < rates[0] < max(rates) == pytest.approx(0.1, rel=0.2)
    else:
        assert rates == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.0])


def test_the_same_module_gets_the_same_answers_from_a_stock_trainer(fit, unaware, tiny_data, tmp_path):
    def ask(module):
        # A stock Trainer knows the number of batches after it was asked for their estimate.
        names = ("max_epochs", "estimated_stepping_batches", "num_training_batches", "world_size", "precision")
        return [getattr(module.trainer, name) for name in names]

    module, answers = asking(unaware, "configure_optimizers", ask)
    fit(module, tiny_data, local_epochs=2)
    images = torch.randn(20, 1, 8, 8), torch.randint(4, (20,))
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*images), batch_size=8)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    del answers[1:]
    trainer.fit(module, batches)
    assert answers[0] == answers[1] and module.trainer is trainer
    with pytest.raises(RuntimeError):
        unaware().trainer  # noqa: B018
    fit(module, tiny_data)  # a Trainer has had the module before
    assert answers[-1] == [1, 3, 3, 1, "32-true"]


@pytest.mark.parametrize("hook", ["setup", "configure_optimizers", "training_step", "validation_step"])
def test_other_questions_are_refused_by_their_name(hook, fit, unaware, tiny_data):
    module, _ = asking(unaware, hook, lambda m: m.trainer.fit_loop)
    with pytest.raises(ModuleError, match=r"^self\.trainer\.fit_loop "):
        fit(module, tiny_data)
    assert module._run_facts is None  # the data are not kept alive
    module, answers = asking(unaware, hook, lambda m: (hasattr(m.trainer, "fit_loop"), getattr(m.trainer, "tuner", 7)))
    fit(module, tiny_data)
    assert set(answers) == {(False, 7)}


def test_numbers_of_steps_are_not_known_in_an_evaluation(fit, unaware, tiny_data):
    """The last client of a process differs from process to process."""
    module, _ = asking(unaware, "on_validation_epoch_end", lambda m: m.trainer.estimated_stepping_batches)
    with pytest.raises(ModuleError, match=r"self\.trainer\.estimated_stepping_batches is known only while"):
        fit(module, tiny_data)
    module, answers = asking(unaware, "on_validation_epoch_end", lambda m: m.trainer.max_epochs)
    fit(module, tiny_data, local_epochs=3)
    assert set(answers) == {3}


def test_before_the_first_client_the_largest_one_stands_for_it(fit, unaware):
    data = Synthetic(samples=50, test_samples=8, classes=4, shape=(1, 8, 8), clients=3, batch_size=8, seed=1)
    data.setup("fit")
    module, answers = asking(unaware, "setup", lambda m: m.trainer.num_training_batches)
    fit(module, data)
    assert answers == [-(-max(data.client_sizes) // 8)]


def test_lightnings_own_uses_of_the_trainer_work(fit, unaware, tiny_data, capsys):
    gathered, printed = [], "a line of the module"

    class Using(unaware):
        def on_train_start(self):
            gathered.append(self.all_gather(torch.ones(2)))
            self.print(printed)
            self.toggle_optimizer(self.optimizers())
            self.untoggle_optimizer(self.optimizers())

    fit(Using(), tiny_data, cohort=1)
    assert gathered[0].tolist() == [1, 1] and printed in capsys.readouterr().out


class Importable(Classifier):
    """A class at the top level of a file, where unpickling finds it."""

    copies: list = []

    def on_train_start(self):
        self.copies[:] = [copy.deepcopy(self), pickle.loads(pickle.dumps(self))]


def test_a_module_can_be_copied_and_pickled_in_a_run_without_its_data(fit, tiny_data):
    module = Importable(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4)), classes=4)
    fit(module, tiny_data)
    copied, pickled = module.copies
    assert copied.trainer.datamodule is tiny_data and pickled._run_facts is None
    module.trainer = None
    with pytest.raises(RuntimeError):
        module.trainer  # noqa: B018


def test_a_step_that_asks_the_trainer_is_not_captured(unaware, tiny_data):
    loops = []

    class Recorded(RecordedSteps):
        def make_local_loop(self):
            loops.append(super().make_local_loop())
            return loops[-1]

    class Asking(unaware):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, 0) / self.trainer.max_epochs

    class AskingBefore(unaware):
        def on_train_start(self):
            self.epochs = self.trainer.max_epochs

    for module, replayed in ((Asking(), False), (AskingBefore(), True)):
        settings = {"density": 0.3, "rounds": 2, "cohort": 3, "local_epochs": 2, "backend": "dense"}
        Recorded(PDST(), accelerator="cpu", **settings).fit(module, tiny_data)
        assert isinstance(loops[-1], CapturedLoop) and bool(loops[-1].counts["replayed"]) == replayed
        assert any("trainer" in reason for reason in loops[-1].told) != replayed


def test_a_question_that_is_refused_ends_a_run_that_skips_failing_clients(unaware, tiny_data):
    module, _ = asking(unaware, "on_train_start", lambda m: m.trainer.callback_metrics)
    trainer = FederatedTrainer(PDST(), rounds=1, cohort=2, accelerator="cpu", faults=FaultPolicy("skip"))
    with pytest.raises(ModuleError, match=r"self\.trainer\.callback_metrics"):
        trainer.fit(module, tiny_data)
