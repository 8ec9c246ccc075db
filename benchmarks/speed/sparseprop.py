"""SparseProp (Nikdan et al., ICML 2023) against the sparse kernels: training steps and layers, one thread, batch 32.

    python benchmarks/speed/sparseprop.py    # results/sparseprop.md; --help shows how to measure less

SparseProp gets an environment of its own, which borrows the packages of the one that has flash_pl. It needs a compiler,
and its setup.py calls the ``pip`` and ``python3`` of the PATH. From the environment that has flash_pl:

    python -m venv .venv
    python -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" > base.pth
    . .venv/bin/activate && mv base.pth "$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")"
    pip install setuptools wheel pybind11 && pip install --no-build-isolation sparseprop==0.1.14

Steps: ``swap_modules_with_sparse`` replaces layers of the same network under the same mask, and the bare loop trains
it. It calls each layer once, dense and vectorized over the batch and over the width, and keeps the fastest. Since that
varies, a second network is chosen by medians, and the faster one counts. Layers that stay dense have no masks.

Layers: forward and both backward passes; the gradient of the weight stays sparse in both. SparseProp's vectorizations
and the sparse kernels get images and output gradients in their own layouts; rows are contiguous for all. The faster
vectorization counts. Of dense torch the faster memory format counts, here and in the bare loop. Results are compared
with dense torch before they are timed. The contenders take turns within one process. Medians are compared.
"""

import argparse
import copy
import shlex
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from unittest import mock

import layers
import torch
from networks import FORMATS, NETWORKS, Turn, bare_turns, client_turn, federated, medians, train
from torch import Tensor, nn

from flash_pl.atomic_write import write_atomically
from flash_pl.kernels import Sink, SparsePattern, sparse_conv2d, sparse_linear
from flash_pl.kernels.layout import batch_innermost
from flash_pl.kernels.library import compiled

sys.path.append(sys.path.pop(0))  # this folder becomes the last one: the package has the name of this file
from sparseprop.modules import SparseConv2d, SparseLinear
from sparseprop.utils import swap_modules_with_sparse

DENSITIES = (0.1, 0.05, 0.01)
CONVOLUTIONS = ("resnet18 64x32x32", "resnet18 128x16x16", "resnet18 256x8x8", "resnet18 512x4x4")
LINEAR = ("mnistnet fc1", "leaf fc1", "lenet5 fc1")


class Ours(nn.Module):
    """A layer without bias that the sparse kernels compute; the gradient of its weight goes to a sink."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.weight, self.pattern = nn.Parameter(layer.weight.detach().clone()), SparsePattern(layer.weight != 0)
        self.sink, self.geometry = Sink(), (layer.stride, layer.padding) if isinstance(layer, nn.Conv2d) else ()

    def forward(self, x: Tensor) -> Tensor:
        self.sink.clear()
        layer = sparse_conv2d if self.geometry else sparse_linear
        return layer(x, self.weight, None, self.pattern, *self.geometry, sink=self.sink)


def compute(module: nn.Module, x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Forward and both backward passes: the output, and the gradients of ``x`` and of the weight as they come."""
    y = module(x)
    dx, dweight = torch.autograd.grad(y, (x, module.weight), gradient, allow_unused=True)
    return y, dx, module.sink.gradient if isinstance(module, Ours) else dweight


def turn_of(module: nn.Module, x: Tensor, gradient: Tensor) -> Turn:
    return partial(compute, module, x.requires_grad_(), gradient)


def agree(got: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    """Whether the norm of the difference is below ``tolerance`` times that of ``wanted``."""
    return bool((got - wanted).norm() < tolerance * wanted.norm())


def layer_turns(spec: layers.Conv | layers.Linear, density: float) -> dict[str, Turn]:
    """Turns of the contenders for a layer under a random mask; their results have been compared."""
    if isinstance(spec, layers.Linear):
        layer, x = nn.Linear(spec.inputs, spec.outputs, bias=False), torch.randn(layers.BATCH, spec.inputs)
    else:
        layer = nn.Conv2d(spec.inputs, spec.outputs, spec.kernel, spec.stride, spec.padding, bias=False)
        x = torch.randn(layers.BATCH, spec.inputs, spec.side, spec.side)
    layer.weight.data *= torch.rand_like(layer.weight) < density
    gradient, active = torch.randn_like(layer(x)), layer.weight != 0
    cases = {"dense": (layer, x, gradient)}
    if isinstance(layer, nn.Linear):
        sparse = {"rows": SparseLinear.from_dense(layer), "ours": Ours(layer)}
        cases |= {name: (module, x.clone(), gradient) for name, module in sparse.items()}
    else:
        pixels = (images.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2) for images in (x, gradient))
        dense = (copy.deepcopy(layer), x, gradient)
        cases["dense, channels last"] = tuple(each.to(memory_format=torch.channels_last) for each in dense)
        cases["batch"] = SparseConv2d.from_dense(layer, vectorizing_over_on=False), *pixels
        cases["width"] = SparseConv2d.from_dense(layer, vectorizing_over_on=True), x.clone(), gradient
        cases["ours"] = Ours(layer), batch_innermost(x), batch_innermost(gradient)
    turns = {name: turn_of(*case) for name, case in cases.items()}
    results = {name: turn() for name, turn in turns.items()}
    for name, (y, dx, dweight) in results.items():
        dweight = dweight[active] if dweight.shape == active.shape else dweight
        wanted = (*results["dense"][:2], results["dense"][2][active])
        assert all(map(agree, (y, dx, dweight), wanted)), name
    return turns


def choose(modules: Sequence[nn.Module], input_shape: Sequence[int], verbose: bool = False) -> nn.Module:
    """The fastest module, as SparseProp's own function of these arguments finds it, but by medians of five turns."""
    x = torch.randn(input_shape)
    gradient = torch.randn_like(modules[0](x))
    times = layers.medians({str(i): turn_of(module, x, gradient) for i, module in enumerate(modules)}, seconds=0)
    return modules[int(min(times, key=times.__getitem__))]


def agree_in_a_step(dense: nn.Module, sparse: nn.Module, images: Tensor, labels: Tensor) -> bool:
    """Whether all gradients agree. Rounding moves inputs of ReLU past 0, which changes even dense torch's by 1%."""
    for module in (dense, sparse):
        module.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
    found, got, wanted = dict(sparse.named_parameters()), [], []
    for key, weight in dense.named_parameters():
        values = found.get(key.removesuffix("weight") + "W_val")
        got.append((found[key] if values is None else values).grad.flatten())
        wanted.append(weight.grad.flatten() if values is None else weight.grad[weight != 0])
    return agree(torch.cat(got), torch.cat(wanted), 0.05)


def network_rows(name: str, repeats: int) -> Iterator[str]:
    """A row per density; the contenders of all densities take turns."""
    network, data = NETWORKS[name], NETWORKS[name].images()
    batches, order, sparse_layers = data.client_batches(0), torch.Generator().manual_seed(0), {}
    turns = bare_turns(network, batches)
    for density in DENSITIES:
        loop = federated(network, data, density)
        dense, slots = network.build(), loop.server.layout.slots
        state = {slot.name.removeprefix("model."): slot.view(loop.server.weights) for slot in slots}
        dense.load_state_dict(dense.state_dict() | state)
        networks = [swap_modules_with_sparse(dense, (layers.BATCH, *network.shape))]  # which prints a line per layer
        with mock.patch("sparseprop.modules.run_and_choose", choose):
            networks.append(swap_modules_with_sparse(dense, (layers.BATCH, *network.shape)))
        for index, sparse in enumerate(networks):
            assert agree_in_a_step(dense, sparse, *next(iter(batches.shuffled(order)))), name
            swapped = [module for module in sparse.modules() if isinstance(module, SparseConv2d | SparseLinear)]
            sparse_layers[f"{density} {index}"] = f"{len(swapped)} of {len(loop.server.layout.layers)}"
            turns[f"{density} {index}"] = lambda module=sparse: train(module, batches, order)
        turns[f"{density} ours"] = client_turn(loop)
    times = {key: time / len(batches) for key, time in medians(turns, repeats).items()}
    bare = min(times[format] for format in FORMATS)
    for density in DENSITIES:
        best, ours = min((f"{density} 0", f"{density} 1"), key=times.__getitem__), times[f"{density} ours"]
        numbers = f"{bare:.2f} | {times[best]:.2f} | {sparse_layers[best]} | {ours:.2f} | {times[best] / ours:.2f}"
        yield f"| {name} | {density:g} | {numbers} |"


def tables(networks: Sequence[str], names: Sequence[str], repeats: int, seconds: float) -> Iterator[str]:
    """The lines of the results."""
    isa = f"torch {torch.backends.cpu.get_cpu_capability()}, the sparse kernels {compiled().isa}, SparseProp AVX2"
    versions = f"torch {torch.__version__}, sparseprop {version('sparseprop')}"
    yield f"    python {shlex.join(sys.argv)}\n\n{versions}; instruction sets: {isa}.\n"
    yield "Training steps, median milliseconds:\n"
    yield "| network | d | bare dense loop | SparseProp | its sparse layers | ours | SparseProp / ours |"
    yield "|---|---|---|---|---|---|---|"
    for name in networks:
        yield from network_rows(name, repeats)
    yield "\nLayers, forward and backward, median milliseconds:\n"
    yield "| layer | d | dense torch | SparseProp | vectorized over | ours | SparseProp / ours |"
    yield "|---|---|---|---|---|---|---|"
    for name, density in product(names, DENSITIES):
        times = layers.medians(layer_turns(layers.LAYERS[name], density), seconds)
        dense, ours = min(times[key] for key in times if key.startswith("dense")), times["ours"]
        best = min({"rows", "batch", "width"} & times.keys(), key=times.__getitem__)
        numbers = f"{dense:.3f} | {times[best]:.3f} | {best} | {ours:.3f} | {times[best] / ours:.2f}"
        yield f"| {name} | {density:g} | {numbers} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ungrouped = [name for name in NETWORKS if name != "MobileNetV2"]  # SparseProp has no groups
    parser.add_argument("--networks", nargs="*", default=["ResNet18", "VGG11", "LeNet5"], choices=ungrouped)
    parser.add_argument("--layers", nargs="*", default=CONVOLUTIONS + LINEAR, choices=CONVOLUTIONS + LINEAR)
    parser.add_argument("--repeats", type=int, default=5, help="turns of a network")
    parser.add_argument("--seconds", type=float, default=4.0, help="time to measure a layer at a density")
    parser.add_argument("--to", type=Path, default=Path(__file__).parent / "results" / "sparseprop.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # also SparseProp's: both use the OpenMP that torch loads
    torch.manual_seed(0)
    lines = []
    for line in tables(arguments.networks, arguments.layers, arguments.repeats, arguments.seconds):
        print(line, flush=True)
        lines.append(line)
    write_atomically(arguments.to, ("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main()
