"""Writers of a model for other programs: safetensors files, dense or sparse, and ONNX files."""

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

FORMAT_VERSION = "1"  # of the metadata and of the sparse tensors in a safetensors file
SPARSE_PARTS = ("indices", "values", "shape")


def to_safetensors(model: SparseModel, sparse: bool = False) -> bytes:
    """Return a safetensors file with the model's state dict, row-major. The metadata are the model's facts.

    Args:
        model: to write.
        sparse: write three tensors instead of each masked tensor NAME: ``NAME.indices``, the positions of its active
            weights in the flat tensor (int32 ``[active]``), ``NAME.values`` (``[active]``) and ``NAME.shape`` (int64).

    >>> from safetensors.torch import load
    >>> mask = torch.tensor([[True, False], [False, True]])
    >>> model = SparseModel({"fc.weight": 3.0 * mask}, {"fc.weight": mask}, {"round": "3"})
    >>> load(to_safetensors(model))["fc.weight"].tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    >>> tensors = load(to_safetensors(model, sparse=True))
    >>> tensors["fc.weight.indices"].tolist(), tensors["fc.weight.values"].tolist(), tensors["fc.weight.shape"].tolist()
    ([0, 3], [3.0, 3.0], [2, 2])

    Raises:
        ConfigError: a tensor with 2^31 elements or more cannot be written sparse.
        ValueError: safetensors does not support the dtype of a tensor.
    """
    tensors = dict(model.tensors)
    if sparse:
        for name, mask in model.masks.items():
            tensors |= _sparse_parts(name, tensors.pop(name), mask)
    densities = {name: round(density, 6) for name, density in model.densities.items()}
    layout = {"format_version": FORMAT_VERSION, "layout": "sparse" if sparse else "dense"}
    metadata = layout | model.facts | {"layer_density": json.dumps(densities)}
    try:
        return _with_sorted_metadata(save(tensors, metadata))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"safetensors does not support this model ({error})") from error


def _sparse_parts(name: str, tensor: Tensor, mask: Tensor) -> dict[str, Tensor]:
    if tensor.numel() >= 2**31:
        raise ConfigError("sparse", f"{name} has 2^31 elements or more", "export this model dense")
    indices = mask.reshape(-1).nonzero().squeeze(1)
    parts = indices.int(), tensor.reshape(-1)[indices], torch.tensor(tensor.shape, dtype=torch.int64)
    return {f"{name}.{part}": value for part, value in zip(SPARSE_PARTS, parts, strict=True)}


def _with_sorted_metadata(content: bytes) -> bytes:
    """The same safetensors file with sorted metadata; the library writes them in a different order in each run."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(8, "little") + text + content[start:]


ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # relative to the largest output, or absolute if all outputs are below 1
BATCH_SIZES = (1, 7)


def missing_packages() -> list[str]:
    """Return the packages of the extra ``onnx`` that are not installed."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None]


def to_onnx(network: nn.Module, samples: Tensor, facts: Mapping[str, str]) -> tuple[bytes, float]:
    """Return the network as an ONNX file, in evaluation mode and for any batch size.

    onnxruntime runs the file on ``samples``; its outputs are compared with torch's.

    Args:
        network: with one input tensor and one or several output tensors.
        samples: inputs, at least as many as the largest of ``BATCH_SIZES``.
        facts: metadata of the file.

    Returns:
        The bytes of the file, and the largest absolute difference between the outputs of onnxruntime and torch.

    Raises:
        ModuleError: torch cannot export the network, or the outputs differ by more than ``TOLERANCE``.
    """
    with evaluating(network), torch.no_grad():
        content = _with_facts(_export(network, samples[:2]), facts)
        difference = max(_compare(network, content, samples[:size]) for size in BATCH_SIZES)
    return content, difference


def _export(network: nn.Module, samples: Tensor) -> bytes:
    try:
        with _quiet():
            # torch 2.5 and later; older versions only have the tracing exporter, which newer ones will remove.
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
    except Exception as error:  # the user's forward can raise anything in the exporter
        reason = _first_line(error.__cause__ or error)
        raise ModuleError(f"{type(network).__name__}: torch cannot export its forward to ONNX ({reason})") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the logs, warnings and prints of torch's exporter."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _with_facts(content: bytes, facts: Mapping[str, str]) -> bytes:
    import onnx  # an optional dependency

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(facts))
    return model.SerializeToString()


def _compare(network: nn.Module, content: bytes, samples: Tensor) -> float:
    """Return the largest absolute difference between the outputs of onnxruntime and torch for ``samples``."""
    import onnxruntime  # an optional dependency

    name, largest = type(network).__name__, 0.0
    try:
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: samples.numpy()})
        expected = [output.numpy() for output in _tensors(network(samples))]
        pairs = [(a.astype(float), b.astype(float)) for a, b in zip(outputs, expected, strict=True)]
    except Exception as error:  # onnxruntime and the user's forward can raise anything
        reason = _first_line(error)
        raise ModuleError(f"{name}: the ONNX file fails on {len(samples)} samples ({reason})") from error
    for output, reference in pairs:
        if output.shape != reference.shape:
            raise ModuleError(f"{name}: the output of ONNX has shape {output.shape}, that of torch {reference.shape}")
        difference = _max_difference(output, reference)
        scale = float(np.abs(reference[np.isfinite(reference)]).max(initial=0))
        if not difference <= TOLERANCE * max(1.0, scale):
            raise ModuleError(f"{name}: ONNX and torch differ by {difference:g} on {len(samples)} samples")
        largest = max(largest, difference)
    return largest


def _max_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference: 0 between equal infinities, NaN if there is any NaN."""
    difference = np.zeros(a.shape)
    np.subtract(a, b, out=difference, where=a != b)
    return float(np.abs(difference).max(initial=0))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _tensors(output: Any) -> list[Tensor]:
    """The tensors in the output of a forward, in the order of ONNX's outputs."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, Sequence) else ()
    return [tensor for part in parts for tensor in _tensors(part)]
