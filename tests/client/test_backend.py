"""The kernels that compute a module's layers follow its mask, and leave no trace behind."""

import copy
import io

import pytest
import torch
from torch import nn

from flash_pl import FederatedTrainer
from flash_pl.client.backend import PlainSGD
from flash_pl.client.kernel_backend import KernelBackend, Normalizing
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.errors import ConfigError
from flash_pl.kernels import available
from flash_pl.models import LeNet5, MNISTNet
from flash_pl.schedulers import PDST, SparseScheduler
from flash_pl.sparsity import Layout

compiled = pytest.mark.skipif(not available(), reason="installed without a compiler")


def train(module, data, backend, scheduler: SparseScheduler | None = None, density=0.2, epochs=1):
    method, where = scheduler or PDST(), {"backend": backend, "accelerator": "cpu"}
    trainer = FederatedTrainer(method, density=density, rounds=2, cohort=4, local_epochs=epochs, seed=1, **where)
    torch.manual_seed(0)
    return trainer.fit(module(), data)


@compiled
@pytest.mark.parametrize("backend", ["auto", "sparse"])
def test_training_is_that_of_dense_kernels_up_to_rounding(backend, unaware, tiny_data):
    ours, dense = (train(unaware, tiny_data, one).server for one in (backend, "dense"))
    assert torch.equal(ours.mask, dense.mask)
    torch.testing.assert_close(ours.weights, dense.weights, rtol=1e-3, atol=1e-4)
    assert not torch.equal(ours.weights, dense.weights) or backend == "auto"


@compiled
@pytest.mark.parametrize("method", ["nst", "jmwst", "hetero_jmwst", "dense"])
def test_a_mask_that_moves_is_followed(method, unaware, tiny_data):
    found = []
    for backend in ("sparse", "dense"):
        arguments = ["density=0.3", "trainer.accelerator=cpu", "rounds=1", "cohort=1", "clients=8", "data=synthetic"]
        arguments += ["lr=0.01"] if method == "dense" else []
        if method != "nst" and method != "dense":
            arguments += ["scheduler.sensitivity.init_fraction=0.25", "scheduler.sensitivity.epochs=1"]
        torch.manual_seed(0)
        trainer = build_trainer(compose(read_config(method), [*arguments, f"trainer.backend={backend}"]))
        found.append(trainer.fit(unaware(), tiny_data))
    ours, dense = (loop.server for loop in found)
    # A weight on the edge of being pruned may fall to the other side.
    assert (ours.mask ^ dense.mask).sum() <= 0.02 * dense.mask.sum()
    both = torch.cat([ours.mask & dense.mask, torch.ones(len(ours.weights) - len(ours.mask), dtype=torch.bool)])
    torch.testing.assert_close(ours.weights[both], dense.weights[both], rtol=0.05, atol=0.01)


@compiled
@pytest.mark.parametrize("network", [MNISTNet, LeNet5])
def test_only_forward_is_replaced_and_it_comes_back(network):
    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = network()

    module = Module()
    before, x = dict(module.state_dict()), torch.randn(4, 1, 28, 28)
    expected = module.model(x)
    backend = KernelBackend(module, Layout(module), everywhere=True)
    with backend:
        assert "forward" in vars(module.model.conv2) and "forward" in vars(module.model.pool)
        assert type(module.model.conv2) is nn.Conv2d and module.state_dict().keys() == before.keys()
        torch.testing.assert_close(module.model(x), expected, rtol=1e-4, atol=1e-5)
        backend.dense = True
        module.model.pool.forward = nn.MaxPool2d.forward.__get__(module.model.pool)
        assert torch.equal(module.model(x), expected)
    assert not any("forward" in vars(part) for part in module.modules())


def pickled(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@compiled
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: copy.deepcopy(copy.deepcopy(module)), pickled])
def test_a_copy_computes_by_torch_with_its_own_weights(duplicate):
    parts = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(144, 40)
    net, x = nn.Sequential(*parts), torch.randn(8, 3, 9, 9)
    layout = Layout(net)
    weights = layout.flatten_(net)[: layout.maskable]
    first, second, start = torch.rand(layout.maskable) < 0.2, torch.rand(layout.maskable) < 0.2, weights.clone()

    def computed(module):
        conv, norm, _, _, _, linear = module
        y = nn.functional.conv2d(x, conv.weight, conv.bias)
        y = nn.functional.batch_norm(y, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return nn.functional.linear(nn.functional.max_pool2d(y.relu(), 3, 2).flatten(1), linear.weight, linear.bias)

    with KernelBackend(net, layout, everywhere=True) as backend:
        weights.mul_(first)
        backend.follow(first)
        copies = [duplicate(net).eval()]
        net(x).sum().backward()  # it has lists of active weights now, and other statistics
        copies.append(duplicate(net).eval())
        weights.copy_(start * second)
        backend.follow(second)
        net(x)
        before = copy.deepcopy(net.state_dict())
        copies.append(duplicate(net).eval())
        for each in copies:
            assert torch.equal(each(x), computed(each))
            each.load_state_dict(net.state_dict())
            assert torch.equal(each(x), computed(each))
            each.train()(x)
            assert not torch.equal(each[1].running_mean, net[1].running_mean)
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(copies[0].eval()(x), computed(copies[0]))


@compiled
@pytest.mark.parametrize("whole", [False, True])
def test_a_module_may_train_with_a_copy_of_what_it_was(whole, unaware, tiny_data):
    class Distilling(unaware):
        def training_step(self, batch, batch_idx):
            self.teacher = [copy.deepcopy(self).net if whole else copy.deepcopy(self.net)]
            with torch.no_grad():
                target = self.teacher[0].eval()(batch[0])
            return super().training_step(batch, batch_idx) + (self.net(batch[0]) - target).square().mean()

    ours, dense = (train(Distilling, tiny_data, one).server.weights for one in ("sparse", "dense"))
    torch.testing.assert_close(ours, dense, rtol=1e-3, atol=1e-4)


@compiled
def test_what_the_kernels_cannot_do_is_left_to_torch():
    module = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(16, stride=1, padding=8),
        nn.Conv2d(4, 4, 3),
    )
    x = torch.randn(2, 4, 24, 24)
    expected = module(x)
    with KernelBackend(module, Layout(module), everywhere=True):
        assert [bool("forward" in vars(part)) for part in module] == [False] * 6 + [True]
        torch.testing.assert_close(module(x), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert module(x).dtype == torch.bfloat16


@compiled
def test_one_image_without_a_batch_is_left_to_torch():
    module, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2)), torch.randn(3, 9, 9)
    expected = module(x)
    with KernelBackend(module, Layout(module), everywhere=True):
        assert torch.equal(module(x), expected)


@compiled
def test_a_layer_of_the_users_own_and_a_shared_weight_are_left_to_torch():
    class Doubling(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    module = nn.Sequential(Doubling(6, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6))
    module[2].weight = module[1].weight
    module.append(nn.Linear(6, 6))
    module[4].forward = lambda x: x + 1
    x = torch.randn(3, 6)
    expected = module(x)
    with KernelBackend(module, Layout(module), everywhere=True):
        assert [bool("forward" in vars(part)) for part in module] == [False, False, False, True, True]
        torch.testing.assert_close(module(x), expected)
    torch.testing.assert_close(module(x), expected)


@compiled
@pytest.mark.parametrize("weight_decay", [0.0, 5e-3])
def test_plain_steps_without_a_dense_gradient_are_the_optimizers(weight_decay, unaware, tiny_data):
    class Plain(unaware):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), torch.tensor(0.1), weight_decay=weight_decay)

    class Watching(Plain):
        def on_after_backward(self):
            assert self.net[0].weight.grad is not None

    ours, watched, dense = (
        train(module, tiny_data, backend).server.weights
        for module, backend in ((Plain, "sparse"), (Watching, "sparse"), (Plain, "dense"))
    )
    for other in (watched, dense):
        torch.testing.assert_close(ours, other, rtol=1e-3, atol=1e-4)


@compiled
def test_a_penalty_on_the_weights_leaves_weight_decay_counted_once(unaware, tiny_data):
    class Proximal(unaware):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1, weight_decay=0.5)

        def on_train_start(self):
            self.start = [parameter.detach().clone() for parameter in self.parameters()]

        def training_step(self, batch, batch_idx):
            pairs = zip(self.parameters(), self.start, strict=True)
            return super().training_step(batch, batch_idx) + 0.05 * sum((p - q).square().sum() for p, q in pairs)

    ours, dense = (train(Proximal, tiny_data, backend).server.weights for backend in ("sparse", "dense"))
    torch.testing.assert_close(ours, dense, rtol=1e-3, atol=1e-4)


@compiled
def test_who_may_take_steps(unaware):
    weights = [nn.Parameter(torch.randn(4, 4)) for _ in range(2)]
    sgd = PlainSGD(weights[:1])
    for optimizer, taken in (
        (torch.optim.SGD(weights, 0.1, weight_decay=1e-3), True),
        (torch.optim.SGD(weights, 0.1, momentum=0.9), False),
        (torch.optim.SGD(weights, 0.1, maximize=True), False),
        (torch.optim.Adam(weights), False),
        (torch.optim.SGD(weights[1:], 0.1), False),
    ):
        sgd.take(optimizer)
        assert (sgd.sink(weights[0]) is not None) is taken and sgd.sink(weights[1]) is None
    optimizer = torch.optim.SGD(weights, 0.1)
    optimizer.register_step_pre_hook(lambda *arguments: None)
    sgd.take(optimizer)
    assert sgd.sink(weights[0]) is None
    weights[0].register_hook(lambda gradient: gradient)
    sgd.take(torch.optim.SGD(weights, 0.1))
    assert sgd.sink(weights[0]) is None


@compiled
def test_steps_that_want_dense_gradients_get_them(unaware, tiny_data):
    seen = []

    class Growing(PDST):
        def wants_dense_gradients(self, client, step):
            return step == 1

        def on_dense_gradients(self, client, step):
            gradient = client.module.net[0].weight.grad
            seen.append((step, bool(gradient[~client.layout.layers[0].view(client.mask)].any())))

    train(unaware, tiny_data, "sparse", Growing())
    assert {step for step, _ in seen} == {0, 1, 2} and all(dense == (step == 1) for step, dense in seen)
    assert SparseScheduler().wants_dense_gradients(None, 0) is False


def stepping_plainly(unaware):
    """The module with plain SGD, whose steps the kernels take."""

    class Plain(unaware):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Plain


@compiled
def test_gradients_are_there_after_the_step_too(unaware, tiny_data):
    class Looking(PDST):
        def on_batch_end(self, client, step):
            seen.append(client.gradients())

        def on_client_end(self, client, context):
            assert torch.equal(client.gradients(), seen[-1])
            return {}

    found = {}
    for backend in ("sparse", "dense"):
        found[backend] = seen = []
        train(stepping_plainly(unaware), tiny_data, backend, Looking())
    assert all(gradient.any() for gradient in found["dense"])
    torch.testing.assert_close(found["sparse"], found["dense"], rtol=1e-3, atol=1e-4)


HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_train_epoch_start", "on_train_epoch_end", "on_train_end")


@compiled
@pytest.mark.parametrize("hook", HOOKS)
def test_a_modules_hooks_see_the_gradients_of_the_last_step(hook, unaware, tiny_data):
    def look(self, *arguments):
        if self.global_step:
            seen.append(self.net[4].weight.grad is not None)

    seen = []
    train(type("Looking", (stepping_plainly(unaware),), {hook: look}), tiny_data, "sparse", epochs=2)
    assert seen and all(seen)


@compiled
def test_gradients_of_on_train_start_and_hooks_made_there_are_torchs(unaware, tiny_data):
    class Starting(stepping_plainly(unaware)):
        def on_train_start(self):
            weight = self.net[4].weight
            self.zero_grad()
            self.net(torch.randn(8, 1, 8, 8)).square().mean().backward()
            assert weight.grad.any()
            while handles:
                handles.pop().remove()
            handles.append(weight.register_hook(lambda gradient: seen.append(gradient.norm())))

    seen, handles = [], []
    train(Starting, tiny_data, "sparse")
    assert seen


def test_without_compiled_kernels_everything_is_dense(monkeypatch, unaware, tiny_data):
    expected = train(unaware, tiny_data, "dense").server.weights
    monkeypatch.setattr("flash_pl.client.binding.available", lambda: False)
    assert torch.equal(train(unaware, tiny_data, "auto").server.weights, expected)
    with pytest.raises(ConfigError, match="no compiled kernels"):
        train(unaware, tiny_data, "sparse")


def test_another_backend_is_refused(unaware, tiny_data):
    with pytest.raises(ConfigError, match="backend: 'fast' is not allowed; expected one of auto, dense, sparse"):
        train(unaware, tiny_data, "fast")


@compiled
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("track", [True, False])
def test_batch_norms_keep_torchs_statistics(momentum, track):
    ours, theirs = (nn.BatchNorm2d(5, momentum=momentum, track_running_stats=track) for _ in range(2))
    kernel, x = Normalizing(ours), torch.randn(8, 5, 6, 6)
    for scale in (1.0, 3.0, 0.5):
        torch.testing.assert_close(kernel(scale * x + 1), theirs(scale * x + 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())
    ours.eval(), theirs.eval()
    torch.testing.assert_close(kernel(x), theirs(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="more than 1 value"):
        Normalizing(ours.train())(torch.randn(1, 5, 1, 1))
