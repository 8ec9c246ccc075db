"""Pruned weights are 0 whenever a step computes with them, under every optimizer and in every kind of layer."""

import warnings

import lightning as L
import pytest
import torch
from torch import nn

from flash_pl import PDST, Classifier, FederatedTrainer
from flash_pl.client import ClientContext, federate
from flash_pl.client.optimizers import KEEP_ZEROS, keeps_zeros
from flash_pl.errors import ClientError, ModuleError
from flash_pl.sparsity import Layout

SETTINGS = {"rounds": 2, "cohort": 2, "accelerator": "cpu"}


@pytest.fixture
def recorder(unaware):
    """A module that notes context, batch, mask and parameters at every step."""

    class Recorder(unaware):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
            self.steps = []

        def training_step(self, batch, batch_idx):
            client = self._client
            assert not client.weights[~client.mask].any()
            state = {name: value.clone() for name, value in self.state_dict().items()}
            self.steps.append((client.context, batch, client.mask.clone(), state))
            return super().training_step(batch, batch_idx)

        def matrices(self):
            return [self.net[1].weight, self.net[3].weight]

    return Recorder


class AddEverywhere(torch.optim.SGD):
    """A user's optimizer that changes all weights."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            for weight in group["params"]:
                weight.add_(0.01)


OTHERS = {"AddEverywhere": lambda module: AddEverywhere(module.parameters(), lr=0.1)}
if hasattr(torch.optim, "Muon"):  # younger than torch 2.6
    OTHERS["Muon"] = lambda module: torch.optim.Muon(module.matrices(), lr=0.02)


@pytest.mark.parametrize("name", OTHERS)
def test_an_optimizer_that_moves_pruned_weights_trains_as_a_loop_that_prunes(recorder, tiny_data, name):
    cls = type("Mixing", (recorder,), {"configure_optimizers": lambda self: OTHERS[name](self)})
    module, plain = cls(), recorder()
    FederatedTrainer(PDST(), density=0.2, **SETTINGS).fit(module, tiny_data)
    rounds = [step for step in module.steps if step[0].purpose == "round"]
    steps = [step for step in rounds if step[0] is rounds[0][0]]  # of the first client
    assert len(steps) > 1
    plain.load_state_dict(steps[0][3])
    optimizer, masks = OTHERS[name](plain), steps[0][2].split([64 * 16, 16 * 4])
    for _, (images, labels), _, state in steps:
        for key, expected in state.items():
            torch.testing.assert_close(plain.state_dict()[key], expected, rtol=0, atol=1e-6)
        optimizer.zero_grad()
        nn.functional.cross_entropy(plain.net(images), labels).backward()
        for weight, mask in zip(plain.matrices(), masks, strict=True):
            weight.grad *= mask.view_as(weight)
        optimizer.step()
        for weight, mask in zip(plain.matrices(), masks, strict=True):
            weight.data *= mask.view_as(weight)


@pytest.mark.parametrize("kind", KEEP_ZEROS)
def test_the_listed_optimizers_keep_zeros_whose_gradients_are_0(kind):
    weight = nn.Parameter(torch.tensor([0.0, 1.0, 0.0, -2.0]))
    decay = {} if kind is torch.optim.Rprop else {"weight_decay": 0.1}
    optimizer = kind([weight], lr=0.1, **decay)
    assert keeps_zeros(optimizer)
    for step in range(5):
        weight.grad = torch.tensor([0.0, 0.5, 0.0, 0.1 * step])
        optimizer.step()
    assert weight[[0, 2]].tolist() == [0, 0] and weight[[1, 3]].abs().min() > 0
    optimizer.register_step_post_hook(lambda *arguments: None)  # it might write to the weights
    assert not keeps_zeros(optimizer)


def test_an_optimizer_that_needs_a_closure_is_refused_before_the_first_client(recorder, tiny_data):
    class Newton(recorder):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    module = Newton()
    with pytest.raises(ModuleError, match="Newton.*LBFGS evaluates the loss several times"):
        FederatedTrainer(PDST(), density=0.2, **SETTINGS).fit(module, tiny_data)
    assert not module.steps


def test_a_training_step_that_changes_pruned_weights_is_named(unaware, tiny_data):
    class Shifting(unaware):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.net[4].weight.data += 0.01
            return loss

    with pytest.raises(ModuleError, match=r"pruned weights of net\.4\.weight are not 0: Shifting or"):
        FederatedTrainer(PDST(), density=0.2, **SETTINGS).fit(Shifting(), tiny_data)


class Rows(nn.Module):
    """An image's rows as a sequence, through an embedding of their sums, attention and a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, images):
        rows = images.squeeze(1)
        tokens = (rows.sum(2) > 0).long() + 2 * (rows[:, :, 0] > 0).long()
        return self.head(self.lstm(self.attention(rows + self.embedding(tokens)))[0][:, -1])


@pytest.mark.parametrize("backend", ["dense", "auto"])
def test_attention_recurrent_layers_and_embeddings_train_under_a_mask(recorder, tiny_data, backend):
    class Sequence(recorder):
        def __init__(self):
            super().__init__()
            self.net = Rows()

    module = Sequence()
    trainer = FederatedTrainer(PDST(), density=0.25, include=["*.embedding"], backend=backend, **SETTINGS)
    loop = trainer.fit(module, tiny_data)
    layout, matrices = loop.server.layout, [p for p in module.parameters() if p.ndim > 1]
    assert len(layout.layers) == len(matrices) == 8
    assert layout.maskable == sum(matrix.numel() for matrix in matrices)
    active = sum(int(matrix.count_nonzero()) for matrix in matrices)
    assert (
        active
        == pytest.approx(0.25 * layout.maskable, abs=8)
        == pytest.approx(loop.metrics["density"] * layout.maskable, abs=8)
    )


def test_weight_norm_of_an_output_without_weights_ends_with_a_reason(unaware, tiny_data):
    class Normed(unaware):
        def __init__(self):
            super().__init__()
            self.net[4] = nn.utils.parametrizations.weight_norm(self.net[4])

    with pytest.raises(ClientError, match=r"leaves net\.4\.\S+original1 a norm of 0, and weight_norm would"):
        FederatedTrainer(PDST(), density=0.01, **SETTINGS).fit(Normed(), tiny_data)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weight_norm_is_refused_exactly_where_the_output_is_nan(norm, dim):
    module = federate(Classifier)(norm(nn.Linear(4, 3, bias=False), dim=dim), classes=3)
    client, rows = module.bind(Layout(module)), torch.ones(3, 4, dtype=torch.bool)
    columns, none = rows.clone(), torch.zeros_like(rows)
    rows[1], columns[:, 3] = False, False
    for mask in (rows, columns, none, torch.ones_like(rows)):
        client.receive(torch.ones(client.layout.size), mask.flatten())
        assert bool(client.weight_norm_of_nothing()) == bool(module(torch.ones(1, 4)).isnan().any())


def test_a_run_warns_if_less_than_half_of_the_weights_are_maskable(unaware, tiny_data):
    class Mostly(unaware):
        def __init__(self, size):
            super().__init__()
            self.table = nn.Parameter(torch.zeros(size))

        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) + self.table.sum()

    with pytest.warns(UserWarning, match=r"2,404 of 5,436 .*44\.2 %.*table \(3,000\)"):
        FederatedTrainer(PDST(), density=0.5, **SETTINGS).fit(Mostly(3000), tiny_data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        FederatedTrainer(PDST(), density=0.5, include=["table"], **SETTINGS).fit(Mostly(3000), tiny_data)
        FederatedTrainer(PDST(), density=0.5, **SETTINGS).fit(unaware(), tiny_data)


def test_what_a_module_logs_does_not_change_the_flops_of_a_sample(unaware, tiny_data):
    class Logging(unaware):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("tokens", 1.0, batch_size=7 * len(batch[1]))

    runs = [FederatedTrainer(PDST(), density=0.5, **SETTINGS).fit(cls(), tiny_data) for cls in (unaware, Logging)]
    assert runs[0].metrics["flops"] == pytest.approx(runs[1].metrics["flops"]) and runs[0].metrics["flops"] > 0


def test_weights_that_grow_start_with_the_step_size_of_rprop():
    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 1, bias=False)

        def training_step(self, batch, batch_idx):
            return self.net(batch).sum()

        def configure_optimizers(self):
            return torch.optim.Rprop(self.parameters(), lr=0.01)

    module = federate(Module)()
    client = module.bind(Layout(module))
    client.receive(torch.ones(4), torch.tensor([True, True, False, False]))
    client.start_training(ClientContext(0, 0, 1, 2, seed=0), PDST())
    client.create_optimizer()
    for _ in range(3):
        module.net.weight.grad = torch.ones(1, 4) * client.mask
        client.optimizer.step()
    client.move_mask_(torch.tensor([True, False, True, False]), torch.tensor([True, False, False, False]))
    sizes = client.optimizer.state[module.net.weight]["step_size"].flatten()
    assert sizes[0] > 0.01 and sizes[1:].tolist() == pytest.approx([0.01] * 3)
