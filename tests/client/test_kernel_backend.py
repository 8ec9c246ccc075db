"""Layers that sparse kernels compute follow the mask and equal torch's up to rounding; the module itself stays."""

import contextlib
import copy
import io

import pytest
import torch
from torch import nn

from flash_pl import FederatedTrainer
from flash_pl.client import kernel_layers
from flash_pl.client.kernel_backend import KernelBackend
from flash_pl.client.kernel_layers import NormForward
from flash_pl.config import build_trainer, compose, read_config
from flash_pl.kernels.layout import batch_innermost
from flash_pl.models import VGG11, LeNet5, MNISTNet, MobileNetV2, ResNet18
from flash_pl.schedulers import PDST, SparseScheduler
from flash_pl.sparsity import Layout


def train(module, data, backend, scheduler=None, epochs=1):
    """Train a module class with seeded weights; return the loop."""
    settings = {"density": 0.2, "rounds": 2, "cohort": 4, "seed": 1, "accelerator": "cpu", "backend": backend}
    torch.manual_seed(0)
    return FederatedTrainer(scheduler or PDST(), local_epochs=epochs, **settings).fit(module(), data)


@pytest.mark.kernels
@pytest.mark.parametrize("backend", ["auto", "sparse"])
def test_training_equals_that_of_dense_kernels_up_to_rounding(backend, unaware, tiny_data):
    sparse, dense = (train(unaware, tiny_data, name).server for name in (backend, "dense"))
    assert torch.equal(sparse.mask, dense.mask)
    torch.testing.assert_close(sparse.weights, dense.weights, rtol=1e-3, atol=1e-4)
    assert not torch.equal(sparse.weights, dense.weights) or backend == "auto"


@pytest.mark.slow
@pytest.mark.kernels
@pytest.mark.parametrize("name", ["nst", "jmwst", "hetero_jmwst", "dense"])
def test_kernels_follow_a_mask_that_moves(name, unaware, tiny_data):
    servers = []
    for backend in ("sparse", "dense"):
        arguments = ["density=0.3", "trainer.accelerator=cpu", "rounds=1", "cohort=1", "clients=8", "data=synthetic"]
        arguments += ["lr=0.01"] if name == "dense" else []
        if name not in ("nst", "dense"):
            arguments += ["scheduler.sensitivity.init_fraction=0.25", "scheduler.sensitivity.epochs=1"]
        torch.manual_seed(0)
        trainer = build_trainer(compose(read_config(name), [*arguments, f"trainer.backend={backend}"]))
        servers.append(trainer.fit(unaware(), tiny_data).server)
    sparse, dense = servers
    # Rounding may decide whether a weight is pruned.
    assert (sparse.mask ^ dense.mask).sum() <= 0.02 * dense.mask.sum()
    both = torch.cat([sparse.mask & dense.mask, torch.ones(len(sparse.weights) - len(sparse.mask), dtype=torch.bool)])
    torch.testing.assert_close(sparse.weights[both], dense.weights[both], rtol=0.05, atol=0.01)


@pytest.mark.kernels
@pytest.mark.parametrize("network", [MNISTNet, LeNet5])
def test_only_forward_is_replaced_and_it_is_restored(network):
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


@pytest.mark.kernels
@pytest.mark.parametrize(("shape", "uses_kernels"), [((2, 4, 512), True), ((2, 3, 512), False), ((512,), False)])
def test_every_position_of_a_sequence_is_a_row_of_a_linear_layer(shape, uses_kernels, monkeypatch):
    """Eight rows are enough for the kernels, however they are divided over sequences."""
    layer, x, calls = nn.Linear(512, 256), torch.randn(shape), []
    layout = Layout(layer)
    layout.flatten_(layer)
    mask = torch.rand(layout.maskable) < 0.05
    with torch.no_grad():
        layer.weight.mul_(mask.view_as(layer.weight))
    kernel = kernel_layers.sparse_linear
    monkeypatch.setattr(kernel_layers, "sparse_linear", lambda *a, **k: calls.append(1) or kernel(*a, **k))
    expected = layer(x)
    with KernelBackend(layer, layout) as backend:
        backend.set_mask(mask)
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert bool(calls) == uses_kernels


def pickled(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.kernels
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: copy.deepcopy(copy.deepcopy(module)), pickled])
def test_torch_computes_a_copy_with_its_own_weights(duplicate):
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
        backend.set_mask(first)
        copies = [duplicate(net).eval()]
        net(x).sum().backward()  # now there are lists of active weights, and other running statistics
        copies.append(duplicate(net).eval())
        weights.copy_(start * second)
        backend.set_mask(second)
        net(x)
        before = copy.deepcopy(net.state_dict())
        copies.append(duplicate(net).eval())
        for copied in copies:
            assert torch.equal(copied(x), computed(copied))
            copied.load_state_dict(net.state_dict())
            assert torch.equal(copied(x), computed(copied))
            copied.train()(x)
            assert not torch.equal(copied[1].running_mean, net[1].running_mean)
        torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(copies[0].eval()(x), computed(copies[0]))


@pytest.mark.kernels
@pytest.mark.parametrize("copy_module", [False, True])
def test_a_module_may_train_with_an_older_copy_of_itself(copy_module, unaware, tiny_data):
    class Distilling(unaware):
        def training_step(self, batch, batch_idx):
            self.teacher = [copy.deepcopy(self).net if copy_module else copy.deepcopy(self.net)]
            with torch.no_grad():
                target = self.teacher[0].eval()(batch[0])
            return super().training_step(batch, batch_idx) + (self.net(batch[0]) - target).square().mean()

    sparse, dense = (train(Distilling, tiny_data, backend).server.weights for backend in ("sparse", "dense"))
    torch.testing.assert_close(sparse, dense, rtol=1e-3, atol=1e-4)


@pytest.mark.kernels
def test_torch_computes_layers_that_the_kernels_do_not_support():
    module = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2, dilation=2),
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


@pytest.mark.kernels
def test_torch_computes_an_image_without_a_batch_dimension():
    module, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2)), torch.randn(3, 9, 9)
    expected = module(x)
    with KernelBackend(module, Layout(module), everywhere=True):
        assert torch.equal(module(x), expected)


@pytest.mark.kernels
def test_torch_computes_the_users_own_layers_and_shared_weights():
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


@pytest.mark.kernels
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("track", [True, False])
def test_batch_norms_have_torchs_running_statistics(momentum, track):
    norm, expected = (nn.BatchNorm2d(5, momentum=momentum, track_running_stats=track) for _ in range(2))
    kernel, x = NormForward(norm, []), batch_innermost(torch.randn(8, 5, 6, 6))
    for scale in (1.0, 3.0, 0.5):
        torch.testing.assert_close(kernel(scale * x + 1), expected(scale * x + 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm.state_dict(), expected.state_dict())
    norm.eval(), expected.eval()
    torch.testing.assert_close(kernel(x), expected(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="more than 1 value"):
        NormForward(norm.train(), [])(torch.randn(1, 5, 1, 1))


@pytest.mark.kernels
def test_steps_that_want_dense_gradients_get_them(unaware, tiny_data):
    seen, looked = [], []

    class Growing(PDST):
        def wants_dense_gradients(self, client, step):
            return step == 1

        def on_dense_gradients(self, client, step):
            looked.append(step)

        def on_gradients(self, client, step):
            gradient = client.module.net[0].weight.grad
            seen.append((step, bool(gradient[~client.layout.layers[0].view(client.mask)].any())))

    train(unaware, tiny_data, "sparse", Growing())
    assert {step for step, _ in seen} == {0, 1, 2} and all(dense == (step == 1) for step, dense in seen)
    assert set(looked) == {1}
    assert SparseScheduler().wants_dense_gradients(None, 0) is False


def with_plain_sgd(unaware):
    """The module with plain SGD, whose steps ``PlainSGD`` takes."""

    class Plain(unaware):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    return Plain


@pytest.mark.kernels
def test_gradients_can_be_read_after_the_step(unaware, tiny_data):
    class Looking(PDST):
        def on_batch_end(self, client, step):
            seen.append(client.gradients())

        def on_client_end(self, client, context):
            assert torch.equal(client.gradients(), seen[-1])
            return {}

    gradients = {}
    for backend in ("sparse", "dense"):
        gradients[backend] = seen = []
        train(with_plain_sgd(unaware), tiny_data, backend, Looking())
    assert all(gradient.any() for gradient in gradients["dense"])
    torch.testing.assert_close(gradients["sparse"], gradients["dense"], rtol=1e-3, atol=1e-4)


HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_train_epoch_start", "on_train_epoch_end", "on_train_end")


@pytest.mark.kernels
@pytest.mark.parametrize("hook", HOOKS)
def test_the_modules_hooks_see_the_gradients_of_the_last_step(hook, unaware, tiny_data):
    def look(self, *arguments):
        if self.global_step:
            seen.append(self.net[4].weight.grad is not None)

    seen = []
    train(type("Looking", (with_plain_sgd(unaware),), {hook: look}), tiny_data, "sparse", epochs=2)
    assert seen and all(seen)


@pytest.mark.kernels
def test_in_on_train_start_gradients_can_be_read_and_hooked(unaware, tiny_data):
    class Starting(with_plain_sgd(unaware)):
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


@pytest.mark.kernels
@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("network", [ResNet18, MobileNetV2, VGG11])
def test_deep_networks_train_and_evaluate_as_with_torch(network, norm):
    """Three steps and an evaluation, at a density where the kernels compute everything."""
    x, labels = torch.randn(20, 3, 16, 16), torch.arange(20) % 10
    results = []
    for kernels in (True, False):
        torch.manual_seed(0)
        net = network(image_size=16, norm=norm)
        layout = Layout(net)
        weights = layout.flatten_(net)[: layout.maskable]
        mask = torch.rand(layout.maskable) < 0.3
        weights.mul_(mask)
        optimizer = torch.optim.SGD(net.parameters(), 1e-3)
        backend = KernelBackend(net, layout) if kernels else contextlib.nullcontext()
        with backend:
            if kernels:
                backend.set_mask(mask)
            for _ in range(3):
                optimizer.zero_grad()
                if kernels:
                    backend.training_backward = True
                nn.functional.cross_entropy(net(x), labels).backward()
                for slot in layout.layers:
                    parameter = net.get_parameter(slot.name)
                    parameter.grad.mul_(slot.view(mask))
                optimizer.step()
            with torch.no_grad():
                logits = net.eval()(x)
        results.append((logits, weights.clone(), *(buffer.clone() for buffer in net.buffers())))
    torch.testing.assert_close(results[0], results[1], rtol=1e-2, atol=4e-3)


@pytest.mark.kernels
def test_evaluation_uses_the_kernels(monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3))
    called = []
    for name in ("sparse_conv2d", "max_pool2d", "deferred"):
        kernel = getattr(kernel_layers, name)
        monkeypatch.setattr(kernel_layers, name, lambda *a, n=name, k=kernel, **kw: called.append(n) or k(*a, **kw))
    net.eval()
    x = torch.randn(10, 3, 9, 9)
    expected = net(x)
    with KernelBackend(net, Layout(net), everywhere=True), torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
    assert called == ["sparse_conv2d", "deferred", "max_pool2d", "sparse_conv2d"]


@pytest.mark.kernels
def test_hooks_around_a_norm_see_ordinary_tensors():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.BatchNorm2d(8)), nn.ReLU())
    seen = []
    net[1].register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0]))
    net[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with KernelBackend(net, Layout(net), everywhere=True):
        net(torch.randn(4, 3, 6, 6)).sum().backward()
    assert [type(each) for each in seen] == [torch.Tensor, torch.Tensor]


@pytest.mark.kernels
def test_dropout_draws_what_it_draws_with_torch():
    parts = (
        nn.Conv2d(3, 64, 3),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 50),
        nn.Dropout(),
        nn.Linear(50, 4),
    )
    net, x = nn.Sequential(*parts), torch.randn(32, 3, 6, 6)
    torch.manual_seed(1)
    expected = net(x)
    with KernelBackend(net, Layout(net), everywhere=True):
        torch.manual_seed(1)
        torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)
