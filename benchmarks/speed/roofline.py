"""What bounds each kernel: its bytes and FLOPs, and its speed beside a matrix product and a copy on the same core.

    python benchmarks/speed/roofline.py    # about two minutes; writes results/roofline.md

One thread, batch 32, random masks. Every kernel works on ten sets of tensors in turn, so that it finds none of them in
the first two caches, as in a network. FLOPs are those of the active weights; bytes are those of the tensors, each read
or written once. Medians.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from flash_pl.atomic_write import write_atomically
from flash_pl.kernels import Normalization, SparsePattern, max_pool2d, moments
from flash_pl.kernels.conv import correlate, multiply
from flash_pl.kernels.geometry import ConvShape
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import library
from flash_pl.kernels.norm import RELU

BATCH, SETS = 32, 10
RESULTS = Path(__file__).parent / "results" / "roofline.md"
# inputs, side, outputs, kernel, padding, groups, density
LAYERS: dict[str, tuple[int, int, int, int, int, int, float]] = {
    "3x3, 64 channels, 32x32": (64, 32, 64, 3, 1, 1, 0.05),
    "3x3, 128 channels, 16x16": (128, 16, 128, 3, 1, 1, 0.05),
    "3x3, 256 channels, 8x8": (256, 8, 256, 3, 1, 1, 0.05),
    "3x3, 512 channels, 4x4": (512, 4, 512, 3, 1, 1, 0.05),
    "3x3, 512 channels, 4x4, d = 0.01": (512, 4, 512, 3, 1, 1, 0.01),
    "3x3, 64 channels, 32x32, d = 0.2": (64, 32, 64, 3, 1, 1, 0.2),
    "1x1, 384 to 96, 8x8": (384, 8, 96, 1, 0, 1, 0.05),
    "depthwise 3x3, 192 channels, 16x16": (192, 16, 192, 3, 1, 192, 1.0),
    "linear 3136 to 2048": (3136, 1, 2048, 1, 0, 1, 0.05),
}


def milliseconds(run: Callable[[int], object]) -> float:
    """Median time of ``run``, on one set of tensors after the other."""
    times = []
    for turn in range(3 * SETS):
        begun = time.perf_counter()
        run(turn % SETS)
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def images(shape: tuple[int, ...]) -> list[Tensor]:
    return [batch_innermost(torch.randn(shape)) for _ in range(SETS)]


def convolution(inputs: int, side: int, outputs: int, kernel: int, padding: int, groups: int, density: float) -> list:
    """Rows of forward pass, gradient of the input and gradient of the weights: name, FLOPs, bytes, milliseconds."""
    native = library()
    assert native is not None
    weight = torch.randn(outputs, inputs // groups, kernel, kernel)
    pattern = SparsePattern(torch.rand(weight.shape) < density if density < 1 else torch.ones_like(weight).bool())
    shape = ConvShape(inputs, (side, side), outputs, (kernel, kernel), (1, 1), (padding, padding), groups)
    xs, ys = images((BATCH, inputs, side, side)), images((BATCH, outputs, *shape.out_size))
    value = weight.flatten()[pattern.index(weight.stride()).long()]
    gradient = torch.zeros(pattern.count)
    (forward,) = pattern.lists(shape, BATCH, False, native.machine)
    (backward,) = pattern.lists(shape, BATCH, True, native.machine)
    flops = 2 * pattern.count * BATCH * shape.out_size[0] * shape.out_size[1]
    size = 4 * (xs[0].numel() + ys[0].numel()) + 12 * pattern.count
    other = lambda i: (i + SETS // 2) % SETS  # noqa: E731
    return [
        ("forward", flops, size, milliseconds(lambda i: multiply(native, forward, value, None, xs[i], None, ys[i]))),
        (
            "gradient of the input",
            flops,
            size,
            milliseconds(lambda i: multiply(native, backward, value, None, ys[other(i)], None, xs[other(i)])),
        ),
        (
            "gradient of the weights",
            flops,
            size,
            milliseconds(lambda i: correlate(native, forward, xs[other(i)], None, ys[other(i)], gradient)),
        ),
    ]


def elementwise() -> dict[str, list]:
    """The same for kernels without weights, on 64 channels of 32x32 pixels."""
    shape, channels = (BATCH, 64, 32, 32), torch.ones(64)
    xs, ys = images(shape), images(shape)
    size = 4 * xs[0].numel()
    norms = [Normalization(x, channels, channels, channels, channels, limits=RELU) for x in xs]
    return {
        "moments, 64 channels, 32x32": [("forward", 0, size, milliseconds(lambda i: moments(xs[i])))],
        "norm and ReLU, 64 channels, 32x32": [
            ("forward", 0, 2 * size, milliseconds(lambda i: norms[i].values())),
            ("backward", 0, 3 * size, milliseconds(lambda i: norms[i].gradients(None, ys[i], True, False))),
        ],
        "max-pool 2x2, 64 channels, 32x32": [
            ("forward", 0, size * 21 // 16, milliseconds(lambda i: max_pool2d(xs[i], 2)))
        ],
    }


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    native = library()
    assert native is not None
    square, product = torch.randn(1024, 1024), torch.empty(1024, 1024)
    peak = 2 * 1024**3 / milliseconds(lambda _: torch.mm(square, square, out=product)) / 1e6
    xs, ys = images((BATCH, 64, 32, 32)), images((BATCH, 64, 32, 32))
    copy = 2 * 4 * xs[0].numel() / milliseconds(lambda i: ys[i].copy_(xs[i])) / 1e6
    lines = [
        "`python benchmarks/speed/roofline.py`",
        "",
        f"{native.isa}, torch {torch.__version__}. On this core a matrix product reaches {peak:.0f} GFLOP/s,",
        f"a copy of 8 MB from and to memory that is in no near cache {copy:.1f} GB/s.",
        "",
        "| layer | pass | MFLOP | MB | ms | GFLOP/s | of the product, % | GB/s | of the copy, % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {name: convolution(*layer) for name, layer in LAYERS.items()} | elementwise()
    for name, passes in rows.items():
        for each, flops, size, ms in passes:
            speed, band = flops / ms / 1e6, size / ms / 1e6
            numbers = f"{flops / 1e6:.0f} | {size / 1e6:.1f} | {ms:.2f} | {speed:.0f} | {100 * speed / peak:.0f}"
            lines.append(f"| {name} | {each} | {numbers} | {band:.1f} | {100 * band / copy:.0f} |")
    print("\n".join(lines))
    write_atomically(RESULTS, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
