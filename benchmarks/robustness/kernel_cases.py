"""Random calls of the kernels and their results by torch in float64, in a file for compilers.c."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from flash_pl.kernels.geometry import ConvShape, Machine, Pair, make_pass, split_batch

UNWRITTEN = -12345.5  # what compilers.c fills results with


@dataclass(frozen=True)
class OneTile(Machine):
    """A machine that has only one tile."""

    tile: Pair

    @property
    def tiles(self) -> tuple[Pair, ...]:
        return (self.tile,)


class Writer:
    """A file of cases for compilers.c."""

    def __init__(self, file: BinaryIO, machine: Machine) -> None:
        self._file = file
        file.write(np.array([machine.vector, machine.registers], np.int64).tobytes())

    def case(self, kind: str, *arrays: Any) -> None:
        """Write a case; an array is numpy's, torch's (float32), bytes, or None for an empty one."""
        self._file.write(kind.encode().ljust(16, b"\0") + np.int64(len(arrays)).tobytes())
        for array in arrays:
            if isinstance(array, Tensor):
                array = (array if array.dtype == torch.bool else array.float()).contiguous().numpy()
            data = b"" if array is None else bytes(array) if not isinstance(array, np.ndarray) else array.tobytes()
            self._file.write(np.int64(len(data)).tobytes() + data)


def longs(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


@dataclass(frozen=True)
class Order:
    """How images [B, C, H, W] lie: the pixels of a channel follow each other, or the channels of a pixel."""

    channels_last: bool

    def places(self, x: Tensor) -> np.ndarray:
        """Return the strides of channels, rows and pixels."""
        batch, channels, height, width = x.shape
        if self.channels_last:
            return longs(batch, width * channels * batch, channels * batch)
        return longs(height * width * batch, width * batch, batch)

    def stored(self, x: Tensor) -> Tensor:
        return x.detach().permute((2, 3, 1, 0) if self.channels_last else (1, 2, 3, 0)).contiguous()


class Cases:
    """Random cases of each kernel."""

    def __init__(self, writer: Writer, machine: Machine, seed: int) -> None:
        self.writer, self.machine = writer, machine
        self.draw, self.rng = random.Random(seed), torch.Generator().manual_seed(seed)

    def randn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng)

    def images(self, *shape: int) -> tuple[Tensor, Order]:
        return self.randn(*shape), Order(self.draw.random() < 0.5)

    def limits(self) -> tuple[float, float]:
        return self.draw.choice([(math.nan, math.nan), (0.0, math.nan), (0.0, 1.5)])

    def convolution(self, tile: Pair | None = None) -> None:
        """Output, gradient of the input and of the active weights; with a tile: for the machine that has only this."""
        draw = self.draw
        groups, top = draw.choice([1, 1, 1, 2, 3]), draw.choice([3, 6, 40])
        inputs, outputs = groups * draw.randint(1, top), groups * draw.randint(1, top)
        kernel, stride, padding = (
            (draw.randint(least, most), draw.randint(least, most)) for least, most in ((1, 5), (1, 3), (0, 4))
        )
        size = [draw.randint(max(1, k - 2 * p), 19) for k, p in zip(kernel, padding, strict=True)]
        batch = draw.choice([0, 1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 48, 64, 65])
        if tile:  # enough images and positions to fill it
            stride, batch, size = (draw.choice([1, 2]),) * 2, 2 * self.machine.vector, [s + 19 for s in size]
        density = draw.choice([0.0, 0.02, 0.1, 0.3, 1.0])
        shape = ConvShape(inputs, (size[0], size[1]), outputs, kernel, stride, padding, groups)
        mask = torch.rand(outputs, inputs // groups, *kernel, generator=self.rng) < density
        (x, x_order), (dy, dy_order) = self.images(batch, inputs, *size), self.images(batch, outputs, *shape.out_size)
        weight, bias = self.randn(*mask.shape), self.randn(outputs) if draw.random() < 0.5 else None
        function, fx = None, x.double()
        if draw.random() < 0.5:
            center, factor, offset = (self.randn(inputs) for _ in range(3))
            low, high = self.limits()
            function = torch.cat([center, factor, offset, torch.tensor([low, high])])
            fx = (fx - center.view(-1, 1, 1)) * factor.view(-1, 1, 1) + offset.view(-1, 1, 1)
            fx = clamp(fx, low, high)
        machine = OneTile(self.machine.vector, self.machine.registers, tile) if tile else self.machine
        first = 0
        for images, lanes in split_batch(batch, machine.vector) or [(0, machine.vector)]:
            part = slice(first, first + images)
            leaves = fx[part].detach().requires_grad_(), weight.double().requires_grad_()
            y = F.conv2d(leaves[0], leaves[1] * mask, None, stride, padding, 1, groups)
            y.backward(dy[part].double())
            y = y.detach() if bias is None else y.detach() + bias.double().view(-1, 1, 1)
            rounded = 2.0 ** (math.ceil(2 * math.log2(max(density, 1e-6))) / 2)
            for kind in ("forward", "backward", "correlate"):
                backward = kind == "backward"
                each = make_pass(shape, backward, images, lanes, rounded, machine)
                layer = longs(*mask.shape[:2], groups, mask[0, 0].numel(), backward)
                taps = (np.array(values, np.int32) for values in (each.tap_rows, each.tap_places))
                index = mask.flatten().nonzero().flatten().int().numpy()
                sides = (dy, dy_order, x, x_order) if backward else (x, x_order, dy, dy_order)
                source, source_order, target, target_order = sides
                inputs_of_case = (
                    *(bytes(each), layer, *taps, mask, weight, index, None if kind != "forward" else bias),
                    *(source_order.stored(source), source_order.places(source), None if backward else function),
                    *(target_order.stored(target), target_order.places(target)),
                    longs(each.tiles, each.scratch, first),
                )
                if kind == "correlate":
                    assert leaves[1].grad is not None
                    self.writer.case("correlate", *inputs_of_case, leaves[1].grad)
                else:
                    assert leaves[0].grad is not None
                    expected = torch.full(target.shape, UNWRITTEN, dtype=torch.float64)
                    expected[part] = leaves[0].grad if backward else y
                    self.writer.case("multiply", *inputs_of_case, target_order.stored(expected))
            first += images

    def update(self) -> None:
        weight = self.randn(self.draw.randint(1, 300))
        index = (torch.rand(len(weight), generator=self.rng) < 0.3).nonzero().flatten()
        gradient, expected = self.randn(len(index)), weight.double()
        expected[index] -= 0.1 * (gradient.double() + 0.01 * expected[index])
        self.writer.case("update", weight, index.int().numpy(), gradient, np.array([0.1, 0.01], np.float32), expected)

    def interleave(self) -> None:
        batch, channels, height, width = (
            self.draw.randint(low, high) for low, high in ((0, 65), (1, 20), (1, 9), (1, 9))
        )
        x, order = self.images(batch, channels, height, width)
        channel, _, pixel = order.places(x)
        self.writer.case("interleave", x, longs(batch, channels, height * width, channel, pixel), order.stored(x))

    def pool(self) -> None:
        draw = self.draw
        kernel, stride = ((draw.randint(1, 4), draw.randint(1, 4)) for _ in range(2))
        padding = draw.randint(0, kernel[0] // 2), draw.randint(0, kernel[1] // 2)
        size = [draw.randint(max(1, k - 2 * p), 15) for k, p in zip(kernel, padding, strict=True)]
        x, order = self.images(draw.randint(1, 65), draw.randint(1, 9), *size)
        x = (4 * x).round() / 4  # so that there are ties
        x[torch.rand(x.shape, generator=self.rng) < 0.02] = math.nan
        leaf = x.requires_grad_()
        y, places = F.max_pool2d(leaf, kernel, stride, padding, return_indices=True)
        dy, out_order = self.images(*y.shape)
        y.backward(dy)
        rows = places // size[1] + padding[0] - torch.arange(y.shape[2])[:, None] * stride[0]
        columns = places % size[1] + padding[1] - torch.arange(y.shape[3]) * stride[1]
        taps = out_order.stored(rows * kernel[1] + columns).numpy().astype(np.uint8)
        window = (*x.shape, *y.shape[2:], *kernel, *stride, *padding, *order.places(x), *out_order.places(y))
        tensors = order.stored(x), out_order.stored(dy), out_order.stored(y)
        self.writer.case("pool", longs(*window), *tensors, taps, order.stored(leaf.grad))  # type: ignore[arg-type]

    def norm(self) -> None:
        batch, channels, height, width = (
            self.draw.randint(low, high) for low, high in ((1, 65), (1, 70), (2, 7), (2, 7))
        )
        x, order = self.images(batch, channels, height, width)
        x += 3 * self.randn(channels).view(-1, 1, 1)
        low, high = self.limits()
        channel, row, pixel = order.places(x)
        runs = (height * width, pixel, batch) if order.channels_last else (height, row, width * batch)
        norm = longs(channels, channel, *runs).tobytes() + np.array([1e-5, low, high, 0], np.float32).tobytes()
        variance, mean = torch.var_mean(x.double(), (0, 2, 3), correction=0)
        self.writer.case("moments", norm, order.stored(x), mean, variance, x.double().sum((0, 2, 3)))
        weight, bias, mean, variance = self.randn(channels), self.randn(channels), mean.float(), variance.float()
        added, dy = self.randn(*x.shape) if self.draw.random() < 0.5 else None, self.randn(*x.shape)
        leaves = [each.double().requires_grad_() for each in (x, weight, bias)]
        plain = F.batch_norm(leaves[0], None, None, leaves[1], leaves[2], True, 0.0, 1e-5)
        plain = plain if added is None else plain + added
        for limit in (low, high):  # rounding decides on which side of a limit these are
            dy[(plain - limit).abs() < 1e-4] = 0
        y = clamp(plain, low, high)
        plain.retain_grad()
        y.backward(dy.double())
        images = (each if each is None else order.stored(each) for each in (added, y, dy, leaves[0].grad, plain.grad))
        channel_gradients = leaves[1].grad, leaves[2].grad
        self.writer.case("norm", norm, order.stored(x), weight, bias, mean, variance, *images, *channel_gradients)

    def twister(self) -> None:
        generator = np.random.MT19937(self.draw.randint(0, 2**31))
        generator.random_raw(self.draw.randint(0, 1300))

        def state() -> tuple[np.ndarray, int]:
            values: Any = generator.state["state"]
            return values["key"].astype(np.uint32), 624 - values["pos"]

        count, (key, left) = self.draw.randint(0, 2000), state()
        wanted = self.draw.randint(0, count)
        numbers = generator.random_raw(count).astype(np.uint32)[:wanted]
        self.writer.case("draw", key, longs(left, count, wanted), numbers, state()[0], longs(state()[1]))


def clamp(x: Tensor, low: float, high: float) -> Tensor:
    """Clamp; NaN is no limit."""
    limits = [None if math.isnan(limit) else limit for limit in (low, high)]
    return x if limits == [None, None] else x.clamp(*limits)


def write_cases(path: Path, machine: Machine, count: int, seed: int) -> None:
    with path.open("wb") as file:
        cases = Cases(Writer(file, machine), machine, seed)
        for tile in machine.tiles:
            cases.convolution(tile)
        kinds: list[Callable[[], None]] = [cases.update, cases.interleave, cases.pool, cases.norm, cases.twister]
        for number in range(count):
            cases.convolution()
            kinds[number % len(kinds)]()
