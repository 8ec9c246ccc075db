"""Does the decoder survive damaged payloads? Each must end in a message or a PayloadError, in bounded time and memory.

    python benchmarks/robustness/fuzz.py --payloads 500000

Payloads with every kind of mask section are cut, lengthened, spliced and changed byte by byte. Most get a new, valid
checksum, so that the decoder reads on. The process may use only 64 MiB of address space more than after a warm-up. The
model has 52,000 weights, so a decoder that trusts a wrong length would exceed this limit at once.
"""

import argparse
import collections
import os
import random
import re
import resource
import time
import zlib

import torch
from torch import nn

from flash_pl.errors import PayloadError
from flash_pl.sparsity import ExactDraw, Layout, Uniform
from flash_pl.wire import Codec, MaskKind, Message

MIB = 2**20
EXTRA_MEMORY = 64 * MIB
HUGE = [b"\xff" * 9, b"\xff\xff\xff\xff\x0f", b"\x80" * 20, b"\x00", b"\xff"]


def seeds(layout: Layout) -> list[tuple[Codec, bytes, torch.Tensor | None]]:
    """A payload per kind of mask section and value type, with its codec and reference mask; some hold extra tensors."""
    draws = torch.Generator().manual_seed(1)
    payloads = []
    for values in ("fp32", "fp16", "bf16"):
        for kind in MaskKind:
            codec = Codec(layout, values, compress=kind is MaskKind.DEFLATED)
            mask = torch.rand(layout.maskable, generator=draws) < (0.5 if kind is MaskKind.BITMAP else 0.05)
            reference = seed = None
            if kind is MaskKind.REFERENCE:
                reference = mask.clone()
            elif kind is MaskKind.DELTA:
                reference = mask ^ (torch.rand(layout.maskable, generator=draws) < 0.001)
            elif kind is MaskKind.SEED:
                densities, seed = Uniform()(layout, 0.05), 7
                mask = ExactDraw()(layout, torch.zeros(layout.size), densities, torch.Generator().manual_seed(seed))
            elif kind is MaskKind.DEFLATED:
                mask = torch.arange(layout.maskable) % 2 == 0
            weights, drawn = torch.zeros(layout.size), torch.randn(layout.elements, generator=draws)
            weights[: layout.maskable] = drawn[: layout.maskable] * mask
            layout.write_others_(weights, drawn[layout.maskable :])
            extra = {"scores": torch.randn(3, 4), "votes": torch.tensor([True, False])} if values == "fp16" else {}
            payload = codec.encode(Message(weights, mask, 600, extra), reference, seed)
            assert payload.sizes.kind is kind, (payload.sizes.kind, kind)
            payloads.append((codec, payload.data, reference))
    return payloads


def mutate(data: bytes, chance: random.Random) -> bytes:
    """A changed copy; three in four have a valid checksum."""
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 3, 8])):
        # The header, the lengths and the mask section lie at the front: half of the changes go there.
        place = chance.randrange(min(len(out), 64) if chance.random() < 0.5 else len(out)) if out else 0
        kind = chance.randrange(7)
        if kind == 0:
            out[place : place + 1] = bytes([chance.randrange(256)])
        elif kind == 1 and out:
            out[place] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del out[place:]
        elif kind == 3:
            del out[place : place + chance.randrange(1, 40)]
        elif kind == 4:
            out[place:place] = chance.randbytes(chance.randrange(1, 40))
        elif kind == 5:
            out[place : place + chance.randrange(12)] = chance.choice(HUGE)
        else:
            source = chance.randrange(len(out) + 1)
            out[place:place] = out[source : source + chance.randrange(200)]
    if len(out) >= 12 and chance.random() < 0.75:
        out[8:12] = zlib.crc32(out[12:]).to_bytes(4, "little")
    return bytes(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--payloads", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    layout = Layout(nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.Linear(500, 100), nn.Linear(100, 10)))
    payloads, chance = seeds(layout), random.Random(arguments.seed)
    for codec, data, reference in payloads:
        codec.decode(data, reference)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + EXTRA_MEMORY, used + EXTRA_MEMORY))

    ends: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    begun = time.perf_counter()
    for _ in range(arguments.payloads):
        codec, data, reference = chance.choice(payloads)
        changed = mutate(data, chance)
        started = time.perf_counter()
        try:
            message = codec.decode(changed, reference)
        except PayloadError as error:
            ends[re.sub(r"\d+", "#", re.sub(r"^'.*': |^\".*\": | \(.*", "", str(error)))] += 1
        else:
            assert message.weights.shape == (layout.size,) and message.mask.shape == (layout.maskable,)
            assert message.weights.isfinite().all() and 0 <= message.samples < 2**63
            ends["a message"] += 1
        slowest = max(slowest, time.perf_counter() - started)
    seconds = time.perf_counter() - begun
    bound = f"at most {EXTRA_MEMORY // MIB} MiB more than after the warm-up"
    print(f"{arguments.payloads:,} payloads in {seconds:.0f} s, the slowest in {1e3 * slowest:.1f} ms, {bound}")
    for end, count in ends.most_common():
        print(f"{count:>8,}  {end}")


if __name__ == "__main__":
    main()
