"""What a layer must be for the kernels; anything else is a ValueError in one line."""

from torch import Tensor, float32

from flash_pl.kernels.pattern import SparsePattern


def check_layer(x: Tensor, weight: Tensor, bias: Tensor | None, pattern: SparsePattern, dimensions: int) -> None:
    """Raise ValueError unless all are float32 on the CPU and fit each other."""
    check_tensors(x, weight, *(() if bias is None else (bias,)))
    if weight.dim() != dimensions or tuple(weight.shape) != pattern.shape:
        raise ValueError(f"the weight is {list(weight.shape)}, its pattern {list(pattern.shape)}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"the bias is {list(bias.shape)} for {weight.shape[0]} outputs")


def check_tensors(*tensors: Tensor) -> None:
    """Raise ValueError unless all are float32 on the CPU."""
    for tensor in tensors:
        if tensor.dtype != float32 or tensor.device.type != "cpu":
            raise ValueError(f"the kernels compute float32 on the CPU, not {tensor.dtype} on {tensor.device.type}")
