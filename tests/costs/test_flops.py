"""FLOPs of training against those that torch's own counter sees in a forward and a backward pass."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from flash_pl.costs import count_flops
from flash_pl.models import VGG11, CharTransformer, MNISTNet, ResNet18
from flash_pl.sparsity import Layout


def frozen(layer: nn.Module) -> nn.Module:
    return layer.requires_grad_(False)


def normed(channels: int) -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Conv2d(channels, 4, 3))


class Adapted(nn.Module):
    """A frozen matrix plus a product of two small trained ones."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.base = frozen(nn.Linear(width, width))
        self.down, self.up = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.randn(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


class Attention(nn.Module):
    """Scores of products without a weight."""

    def __init__(self, width: int, values: nn.Module) -> None:
        super().__init__()
        self.queries, self.values = nn.Linear(width, width), values

    def forward(self, x: Tensor) -> Tensor:
        return torch.softmax(self.queries(x) @ x.transpose(1, 2), dim=-1) @ self.values(x)


class Tied(nn.Module):
    """A weight that is looked up, and multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.middle = nn.Embedding(7, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.embedding(x)) @ self.embedding.weight.T


class InPlace(nn.Module):
    """Operations that write into their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x).relu_()
        target = torch.zeros_like(y)
        target[:, 3:] = y[:, 3:]
        return self.two(target.mul_(torch.tensor(2.0))) + self.three((x > 0).float())


class PseudoLabels(nn.Module):
    """Targets that the trained layer computes without gradients, in three ways; the last needs them again."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        return self.two(self.one(x))

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            scale = float(self.one(x).norm())
        with torch.no_grad():
            guess = self.two(self.one(x))
            with torch.enable_grad():
                again = self.two(guess)
            guess = guess + self.one(x)
        return scale * self.two(self.one(x)) + self.targets(x) + self.two(guess) + again


class StopGradient(nn.Module):
    """Two branches; the target of each is what the other has without its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.encoder(x), self.encoder(-x)
        return self.head(one) @ self.head(two.detach()).T @ one.detach() + two


class Square(torch.autograd.Function):
    """A product in an operation of one's own, with both its gradients."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight.T, x.T @ gradient


class OwnOperation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(6, 6), nn.Parameter(torch.randn(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        return Square.apply(self.first(x), self.weight)


def images(size: int, channels: int = 1) -> Tensor:
    return torch.randn(2, channels, size, size)


def words(length: int) -> Tensor:
    return torch.randint(7, (3, length))


class Joined(nn.Module):
    """Two layers that are computed as one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.first(x), torch.cat([self.left.weight, self.right.weight]))


class Spectral(nn.Module):
    """A product of complex tensors between two real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(5, 4)
        self.factor = nn.Parameter(torch.randn(4, 5, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.last((torch.fft.rfft(self.first(x)) @ torch.view_as_complex(self.factor)).real)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "MNISTNet": (MNISTNet, lambda: images(28)),
    "ResNet-18": (lambda: ResNet18(in_channels=1), lambda: images(16)),
    "VGG-11": (lambda: VGG11(in_channels=1, image_size=32), lambda: images(32)),
    "transformer": (lambda: CharTransformer(7, dim=16, heads=2, depth=2, context_length=12), lambda: words(12)),
    "frozen first layers": (
        lambda: nn.Sequential(frozen(nn.Linear(6, 8)), nn.ReLU(), frozen(nn.Linear(8, 8)), nn.Linear(8, 8)),
        lambda: torch.randn(3, 6),
    ),
    "a frozen last layer": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), frozen(nn.Linear(8, 4))),
        lambda: torch.randn(3, 6),
    ),
    "a trained normalization of the input": (
        lambda: nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 8), nn.Linear(8, 4)),
        lambda: torch.randn(3, 6),
    ),
    "adapters": (lambda: nn.Sequential(Adapted(6), nn.ReLU(), Adapted(6), nn.Linear(6, 4)), lambda: torch.randn(3, 6)),
    "attention": (lambda: Attention(6, nn.Linear(6, 6)), lambda: torch.randn(2, 5, 6)),
    "attention with frozen values": (lambda: Attention(6, frozen(nn.Linear(6, 6))), lambda: torch.randn(2, 5, 6)),
    "tied weights": (Tied, lambda: words(5)),
    "weight norm": (lambda: nn.Sequential(normed(2), normed(4)), lambda: images(8, channels=2)),
    "weights side by side": (Joined, lambda: torch.randn(3, 6)),
    "complex numbers": (Spectral, lambda: torch.randn(3, 6)),
    "operations in place": (InPlace, lambda: torch.randn(3, 6)),
    "products without gradients": (PseudoLabels, lambda: torch.randn(3, 6)),
    "a detached target": (StopGradient, lambda: torch.randn(3, 6)),
    "an input with a gradient": (lambda: nn.Linear(6, 4), lambda: torch.randn(3, 6, requires_grad=True)),
    "an operation of one's own": (OwnOperation, lambda: torch.randn(3, 6)),
    "a transposed convolution": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3), nn.ConvTranspose2d(8, 4, 2, stride=2)),
        lambda: images(8, channels=4),
    ),
}


@pytest.mark.parametrize("arena", [False, True], ids=["own storages", "one storage"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_takes_what_torch_counts_in_it(name: str, arena: bool) -> None:
    build, sample = NETWORKS[name]
    torch.manual_seed(0)
    module, x = build().eval(), sample()
    layout = Layout(module)
    if arena:
        layout.flatten_(module)
    flops = count_flops(module, [layer.name for layer in layout.layers], lambda: module(x))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        out = module(x)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert flops.forward(flops.dense) == forward.get_total_flops()
    assert flops.training(flops.dense) == forward.get_total_flops() + backward.get_total_flops()


def test_groups_divide_the_flops_of_a_convolution() -> None:
    """By hand, since torch's counter does not divide those of the weight gradient."""
    module = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, groups=8))
    flops = count_flops(module, ["0.weight", "1.weight"], lambda: module(torch.zeros(1, 4, 8, 8)))
    first, second = 2 * 36 * 9 * 2 * 8, 2 * 16 * 9 * 1 * 8  # pixels, kernel, inputs of an output, outputs
    assert flops.layers == (first, second) and flops.input_gradients == (0, second)
    assert flops.training(flops.dense) == 2 * first + 3 * second


def test_weights_side_by_side_share_the_flops_of_their_product() -> None:
    module, x = Joined(), torch.randn(3, 6)
    flops = count_flops(module, ["first.weight", "left.weight", "right.weight"], lambda: module(x))
    assert flops.layers == (3 * 2 * 36, 3 * 2 * 12, 3 * 2 * 24) and flops.rest == 0
    assert flops.input_gradients == (0, *flops.layers[1:])
    part = count_flops(module, ["first.weight", "left.weight"], lambda: module(x))
    assert part.layers == flops.layers[:2] and part.rest == flops.layers[2]


def test_an_evaluation_counts_the_gradients_that_training_would_need() -> None:
    module, x = PseudoLabels(), torch.randn(3, 6)
    plain = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    flops = count_flops(plain, ["0.weight", "1.weight"], lambda: plain(x))
    with torch.no_grad():
        assert count_flops(plain, ["0.weight", "1.weight"], lambda: plain(x)) == flops
        names = ["one.weight", "two.weight"]
        assert count_flops(module, names, lambda: module(x)).input_gradients[1] == 5 * 3 * 2 * 36


def test_a_checkpoint_does_not_hide_gradients() -> None:
    module, x = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)), torch.randn(3, 6, requires_grad=True)
    names = ["0.weight", "1.weight", "2.weight"]
    plain = count_flops(module, names, lambda: module(x))
    assert count_flops(module, names, lambda: checkpoint(module, x, use_reentrant=True)) == plain
    assert count_flops(module, names, lambda: checkpoint(module, x, use_reentrant=False)) == plain
