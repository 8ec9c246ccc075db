"""Bytes and time of encoding a mask and a model: ResNet-18 at d = 0.05, random masks with uniform and ERK densities.

    python benchmarks/speed/wire.py    # Markdown tables

Bytes are lengths of payloads; every payload is decoded again and compared. Times are medians on one thread.
"""

import argparse
import math
import statistics
import time
import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from flash_pl.models import ResNet18
from flash_pl.sparsity import ERK, Distribution, ExactDraw, Layout, Move, Uniform, pack_bits
from flash_pl.wire import Codec, Message

DENSITY = 0.05
MB = 1e6


def entropy(layout: Layout, mask: Tensor) -> float:
    """The entropy bound sum_l n_l H(d_l) of a random mask, in bytes."""
    bits = 0.0
    for size, d in zip(layout.sizes.tolist(), layout.densities(mask).tolist(), strict=True):
        if 0 < d < 1:
            bits -= size * (d * math.log2(d) + (1 - d) * math.log2(1 - d))
    return bits / 8


def timed(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call; the first call is a warm-up."""
    times = []
    for _ in range(repeats + 1):
        begun = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times[1:])


def table(name: str, distribution: Distribution, layout: Layout, repeats: int) -> None:
    """Print the mask sections and bitmaps of a random mask with these layer densities."""
    draws = torch.Generator().manual_seed(1)
    densities = distribution(layout, DENSITY)
    unused = torch.zeros(layout.size)  # a random draw does not look at the weights
    mask = ExactDraw()(layout, unused, densities, draws)
    weights, drawn = torch.zeros(layout.size), torch.randn(layout.elements, generator=draws)
    weights[: layout.maskable] = drawn[: layout.maskable] * mask
    layout.write_others_(weights, drawn[layout.maskable :])
    dense, values = 4 * layout.elements, 4 * int(mask.sum())
    bound = entropy(layout, mask)
    codec = Codec(layout)
    message = Message(weights, mask)
    print(f"\n{name}: {len(mask):,} maskable weights, {int(mask.sum()):,} active, dense {dense / MB:.2f} MB", end="")
    print(f", values {values / MB:.3f} MB, the rest {4 * (layout.elements - layout.maskable) / MB:.3f} MB\n")
    print("| mask section | MB | of the entropy bound | payload | dense / payload | encode, ms | decode, ms |")
    print("|---|---|---|---|---|---|---|")
    print(f"| entropy bound | {bound / MB:.3f} | 1 | - | - | - | - |")
    seeded = ExactDraw()(layout, unused, densities, torch.Generator().manual_seed(7))
    cases: list[tuple[str, Codec, Message, Tensor | None, int | None]] = [
        ("reference", codec, message, mask.clone(), None),
        ("seed", codec, Message(weights[:] * 1, seeded), None, 7),
        ("positions", codec, message, None, None),
    ]
    cases[1][2].weights[: layout.maskable] *= seeded
    move = Move()
    for rate in (0.05, 0.125, 0.25):
        moved = move(layout, weights[: layout.maskable], mask, rate, torch.Generator().manual_seed(3)).mask
        changed = weights.clone()
        changed[: layout.maskable] *= moved
        cases.append((f"delta, {rate:.1%} moved", codec, Message(changed, moved), mask, None))
    for label, coder, sent, reference, seed in cases:
        payload = coder.encode(sent, reference, seed)
        decoded = coder.decode(payload.data, reference)
        assert torch.equal(decoded.mask, sent.mask) and torch.equal(decoded.weights, sent.weights)
        assert payload.sizes.kind.name.lower() == label.split(",")[0], (payload.sizes.kind, label)
        encode = timed(lambda c=coder, s=sent, r=reference, k=seed: c.encode(s, r, k), repeats)
        decode = timed(lambda c=coder, d=payload.data, r=reference: c.decode(d, r), repeats)
        size, share = len(payload.data), payload.sizes.mask / bound
        lengths = f"{payload.sizes.mask / MB:.3f} | {share:.3f} | {size / MB:.3f} | {dense / size:.1f}"
        print(f"| {label} | {lengths} | {encode:.0f} | {decode:.0f} |")
    bitmap = pack_bits(mask).numpy().tobytes()
    for label, length in (("bitmap", len(bitmap)), ("bitmap, zlib", len(zlib.compress(bitmap, 9)))):
        size = length + values + 4 * (layout.elements - layout.maskable)
        print(f"| {label} | {length / MB:.3f} | {length / bound:.3f} | {size / MB:.3f} | {dense / size:.1f} | - | - |")
    milliseconds = timed(lambda: codec.decode(codec.encode(message).data), repeats)
    print(f"\nencode and decode of the whole model by positions: {milliseconds:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    layout = Layout(ResNet18(num_classes=10), exclude=["fc"])
    for name, distribution in (("uniform", Uniform()), ("ERK", ERK())):
        table(name, distribution, layout, repeats)


if __name__ == "__main__":
    main()
