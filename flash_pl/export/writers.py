"""Networks as ONNX, compared with torch before anybody gets them."""

import inspect
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from flash_pl.client.module import evaluating
from flash_pl.errors import ConfigError, ModuleError
from flash_pl.sparsity import SparseModel

VERSION = "1"
PARTS = ("indices", "values", "shape")


def to_safetensors(model: SparseModel, sparse: bool = False) -> bytes:
    """A safetensors file with the model's state dict, row-major; its metadata are the facts as text.

    Args:
        sparse: instead of each tensor NAME that can be masked, write ``NAME.indices``, the flat row-major positions of
            its active weights (int32 ``[nnz]``), ``NAME.values`` (``[nnz]``) and ``NAME.shape`` (int64).

    Raises:
        ConfigError: a sparse tensor of 2^31 elements or more.
        ValueError: a tensor of a type that safetensors does not have.
    """
    tensors = dict(model.tensors)
    for name, mask in model.masks.items() if sparse else ():
        tensors |= _parts(name, tensors.pop(name), mask)
    layers = {name: round(density, 6) for name, density in model.densities.items()}
    layout = {"format_version": VERSION, "layout": "sparse" if sparse else "dense"}
    metadata = layout | model.facts | {"layer_density": json.dumps(layers)}
    try:
        return _repeatable(save(tensors, metadata))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"safetensors cannot hold this model ({error})") from error


def _parts(name: str, tensor: Tensor, mask: Tensor) -> dict[str, Tensor]:
    if tensor.numel() >= 2**31:
        raise ConfigError("sparse", name, "tensors below 2^31 elements; export this model dense")
    places = mask.reshape(-1).nonzero().squeeze(1)
    parts = places.int(), tensor.reshape(-1)[places], torch.tensor(tensor.shape, dtype=torch.int64)
    return {f"{name}.{part}": value for part, value in zip(PARTS, parts, strict=True)}


def _repeatable(content: bytes) -> bytes:
    """The same file with its metadata in alphabetical order; the library's own order is another one in every run."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]


PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of the largest output, or of 1 if that is larger
BATCHES = (1, 7)


def missing_packages() -> list[str]:
    """Which of the packages of the extra ``onnx`` are not installed."""
    return [name for name in PACKAGES if find_spec(name) is None]


def to_onnx(network: nn.Module, samples: Tensor, facts: Mapping[str, str]) -> tuple[bytes, float]:
    """An ONNX model of the network in evaluation mode, with a batch size of any number.

    Args:
        network: takes one tensor, gives one or several.
        samples: what it takes, at least as many as the largest of ``BATCHES``; the two are compared on them.
        facts: to keep as the file's metadata.

    Returns:
        The file, and the largest absolute difference between onnxruntime's and torch's outputs.

    Raises:
        ModuleError: torch cannot export it, or the outputs differ by more than ``TOLERANCE``.
    """
    with evaluating(network), torch.no_grad():
        content = _with_facts(_exported(network, samples[:2]), facts)
        worst = max(_difference(network, content, samples[:size]) for size in BATCHES)
    return content, worst


def _exported(network: nn.Module, samples: Tensor) -> bytes:
    try:
        with _quiet():
            # From torch 2.5 on; before that there is the tracing exporter, which later ones are about to drop.
            if "dynamo" in inspect.signature(torch.onnx.export).parameters:
                batch = ({0: torch.export.Dim("batch")},)
                program = torch.onnx.export(network, (samples,), dynamo=True, dynamic_shapes=batch, verbose=False)
                return program.model_proto.SerializeToString()  # type: ignore[union-attr]
            buffer = io.BytesIO()
            torch.onnx.export(
                network,
                (samples,),
                buffer,  # type: ignore[arg-type]
                input_names=["input"],
                dynamic_axes={"input": {0: "batch"}},
            )
            return buffer.getvalue()
    except Exception as error:  # whatever torch meets in somebody's forward
        gist = _gist(error.__cause__ or error)
        raise ModuleError(f"{type(network).__name__}: torch cannot export its forward to ONNX ({gist})") from error


def _with_facts(content: bytes, facts: Mapping[str, str]) -> bytes:
    import onnx  # an optional dependency

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(facts))
    return model.SerializeToString()


@contextmanager
def _quiet() -> Iterator[None]:
    """Meanwhile torch's exporter, which says much about itself, says nothing."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _difference(network: nn.Module, content: bytes, samples: Tensor) -> float:
    """The largest one between the outputs for ``samples``."""
    import onnxruntime  # an optional dependency

    name, worst = type(network).__name__, 0.0
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        found = session.run(None, {session.get_inputs()[0].name: samples.numpy()})
        expected = [output.numpy() for output in _tensors(network(samples))]
        pairs = [(one.astype(float), other.astype(float)) for one, other in zip(found, expected, strict=True)]
    except Exception as error:  # whatever onnxruntime or somebody's forward meets
        raise ModuleError(f"{name}: as ONNX it cannot run on {len(samples)} samples ({_gist(error)})") from error
    for one, other in pairs:
        if one.shape != other.shape:
            raise ModuleError(f"{name}: ONNX gives {one.shape} where torch gives {other.shape}")
        difference, scale = _apart(one, other), float(np.abs(other[np.isfinite(other)]).max(initial=0))
        if not difference <= TOLERANCE * max(1.0, scale):
            raise ModuleError(f"{name}: ONNX and torch differ by {difference:g} on {len(samples)} samples")
        worst = max(worst, difference)
    return worst


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The largest absolute difference; 0 between equal infinities, NaN where either has one: it could hide anything."""
    apart = np.zeros(one.shape)
    np.subtract(one, other, out=apart, where=one != other)
    return float(np.abs(apart).max(initial=0))


def _gist(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tensors(output: Any) -> list[Tensor]:
    """The tensors that a forward returns, in the order of ONNX's outputs."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, Sequence) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
