"""Time of a single layer against the density of its mask: forward and both backward passes, one thread, batch 32.

    python benchmarks/speed/layers.py                  # all layers, about three minutes; writes results and figure
    python benchmarks/speed/layers.py resnet18 pools   # layers whose name contains one of the words; only prints

Dense torch in contiguous and in channels_last memory and the sparse kernels at every density take turns within one
process. Medians are compared; dense is the faster of its two memory formats. The sparse kernels get images in their own
layout, as from the layer before, but for the first layer of a network. The results are in
benchmarks/speed/results/layers.json and docs/layers.png.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.atomic_write import write_atomically
from flash_pl.kernels import SparsePattern, max_pool2d, sparse_conv2d, sparse_linear
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import library
from flash_pl.plotting import COLORS, new_figure

BATCH = 32
DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)
RESULTS = Path(__file__).parent / "results" / "layers.json"
FIGURE = Path(__file__).parents[2] / "docs" / "layers.png"


@dataclass(frozen=True)
class Conv:
    """A convolution of ``inputs`` channels of side x side pixels; a network's ``first`` one has no input gradient."""

    inputs: int
    outputs: int
    side: int
    kernel: int
    padding: int = 0
    stride: int = 1
    first: bool = False
    groups: int = 1


@dataclass(frozen=True)
class Linear:
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Pool:
    channels: int
    side: int
    kernel: int
    stride: int


LAYERS: dict[str, Conv | Linear | Pool] = {
    "mnistnet conv1": Conv(1, 10, 28, 5, first=True),
    "mnistnet conv2": Conv(10, 20, 22, 5),
    "mnistnet fc1": Linear(5120, 50),
    "lenet5 conv2": Conv(6, 16, 14, 5),
    "lenet5 fc1": Linear(400, 120),
    "leaf conv1": Conv(1, 32, 28, 5, 2, first=True),
    "leaf conv2": Conv(32, 64, 14, 5, 2),
    "leaf fc1": Linear(3136, 2048),
    "resnet18 stem": Conv(3, 64, 32, 3, 1, first=True),
    "resnet18 64x32x32": Conv(64, 64, 32, 3, 1),
    "resnet18 128x16x16": Conv(128, 128, 16, 3, 1),
    "resnet18 256x8x8": Conv(256, 256, 8, 3, 1),
    "resnet18 512x4x4": Conv(512, 512, 4, 3, 1),
    "resnet18 64-128 stride 2": Conv(64, 128, 32, 3, 1, 2),
    "resnet18 256-512 stride 2": Conv(256, 512, 8, 3, 1, 2),
    "vgg11 64-128x16x16": Conv(64, 128, 16, 3, 1),
    "vgg11 128-256x8x8": Conv(128, 256, 8, 3, 1),
    "vgg11 256-512x4x4": Conv(256, 512, 4, 3, 1),
    "vgg11 512x2x2": Conv(512, 512, 2, 3, 1),
    "mobilenetv2 1x1 32-192x16x16": Conv(32, 192, 16, 1),
    "mobilenetv2 1x1 384-96x8x8": Conv(384, 96, 8, 1),
    "mobilenetv2 1x1 960-160x4x4": Conv(960, 160, 4, 1),
    "mobilenetv2 1x1 320-1280x4x4": Conv(320, 1280, 4, 1),
    "mobilenetv2 depthwise 192x16x16": Conv(192, 192, 16, 3, 1, groups=192),
    "mobilenetv2 depthwise 576x8x8": Conv(576, 576, 8, 3, 1, groups=576),
    "pools mnistnet 10x24x24": Pool(10, 24, 3, 1),
    "pools mnistnet 20x18x18": Pool(20, 18, 3, 1),
    "pools lenet5 6x28x28": Pool(6, 28, 2, 2),
    "pools leaf 32x28x28": Pool(32, 28, 2, 2),
    "pools vgg11 64x32x32": Pool(64, 32, 2, 2),
}


def step(
    layer: Callable[[Tensor, Tensor | None], Tensor], x: Tensor, weight: Tensor | None, first: bool = False
) -> Callable[[], None]:
    """A function that runs ``layer`` forward and backward; the output's gradient has the output's memory format."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(not first)
    if weight is not None:
        weight = weight.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    gradient = torch.randn_like(layer(x, weight))

    def run() -> None:
        x.grad = None
        if weight is not None:
            weight.grad = None
        layer(x, weight).backward(gradient)

    return run


def contenders(spec: Conv | Linear | Pool) -> dict[str, Callable[[], None]]:
    """Steps by name: the memory formats of dense torch, then the densities (only 1.0 for a pool)."""
    if isinstance(spec, Linear):
        x, weight = torch.randn(BATCH, spec.inputs), torch.randn(spec.outputs, spec.inputs)
        steps = {"contiguous": step(lambda x, w: F.linear(x, w), x, weight)}
    elif isinstance(spec, Pool):
        x, weight = torch.randn(BATCH, spec.channels, spec.side, spec.side), None
        pool = (spec.kernel, spec.stride)
        steps = {"contiguous": step(lambda x, _: F.max_pool2d(x, *pool), x, None)}
        channels_last = x.to(memory_format=torch.channels_last)
        steps["channels_last"] = step(lambda x, _: F.max_pool2d(x, *pool), channels_last, None)
        return steps | {"1.0": step(lambda x, _: max_pool2d(x, *pool), batch_innermost(x), None)}
    else:
        x = torch.randn(BATCH, spec.inputs, spec.side, spec.side)
        weight = torch.randn(spec.outputs, spec.inputs // spec.groups, spec.kernel, spec.kernel)
        steps = {
            layout: step(
                lambda x, w: F.conv2d(x, w, None, spec.stride, spec.padding, groups=spec.groups),
                x.to(memory_format=f),
                weight.to(memory_format=f),
                spec.first,
            )
            for layout, f in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
        }
    for density in DENSITIES:
        mask = torch.rand_like(weight) < density
        pattern = SparsePattern(mask)
        if isinstance(spec, Linear):
            steps[str(density)] = step(lambda x, w, p=pattern: sparse_linear(x, w, None, p), x, weight * mask)
        else:
            steps[str(density)] = step(
                lambda x, w, p=pattern: sparse_conv2d(x, w, None, p, spec.stride, spec.padding, spec.groups),
                x if spec.first else batch_innermost(x),
                weight * mask,
                spec.first,
            )
    return steps


def medians(steps: dict[str, Callable[[], None]], seconds: float) -> dict[str, float]:
    """Median milliseconds of each step. The steps take turns for about ``seconds``, at least five times."""
    for run in steps.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in steps}
    end = time.perf_counter() + seconds
    while len(next(iter(times.values()))) < 5 or time.perf_counter() < end:
        for name, run in steps.items():
            begun = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(values) for name, values in times.items()}


def plot(results: dict[str, dict[str, float]], path: Path) -> None:
    """Draw time against density, one panel per layer, beside dense torch and a line proportional to the density."""
    layers = {name: times for name, times in results.items() if not name.startswith("pools")}
    figure, panels = new_figure(len(layers), across=4, height=2.6)
    for axes, (name, times) in zip(panels, layers.items(), strict=True):
        dense = min(times[layout] for layout in ("contiguous", "channels_last") if layout in times)
        x = np.array(DENSITIES)
        axes.loglog(
            x, [times[str(density)] for density in DENSITIES], "o-", color=COLORS[0], label="sparse", markersize=3
        )
        axes.axhline(dense, color=COLORS[3], label="dense torch")
        axes.loglog(x, dense * x, "--", color="0.5", label="dense torch x density")
        axes.set_title(name, fontsize=8)
        axes.set_xlabel("density")
        axes.set_ylabel("ms")
    panels[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def report(name: str, times: dict[str, float]) -> str:
    dense = min(times.get(layout, float("inf")) for layout in ("contiguous", "channels_last"))
    ratios = "  ".join(
        f"{density:g}: {dense / times[str(density)]:5.2f}x" for density in DENSITIES if str(density) in times
    )
    return f"{name:30} dense {dense:7.2f} ms   {ratios}"


def main(words: Sequence[str], seconds: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    native = library()
    if native is None:
        raise SystemExit("flash_pl was installed without its compiled kernels")
    results = {}
    for name, spec in LAYERS.items():
        if not words or any(word in name for word in words):
            results[name] = medians(contenders(spec), seconds)
            print(report(name, results[name]), flush=True)
    if words:
        return
    settings = {"unit": "ms", "batch": BATCH, "threads": 1, "isa": native.isa, "torch": torch.__version__}
    write_atomically(RESULTS, (json.dumps(settings | {"layers": results}, indent=1) + "\n").encode())
    plot(results, FIGURE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="measure only layers whose name contains one of these")
    parser.add_argument("--seconds", type=float, default=4.0, help="time to measure a layer")
    arguments = parser.parse_args()
    main(arguments.words, arguments.seconds)
