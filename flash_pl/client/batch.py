"""How large a batch is, whatever it is made of."""

from typing import Any

from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor


def samples_in(batch: Any) -> int:
    """Number of samples of a batch: the first dimension of its tensors."""
    first = batch[0] if type(batch) is tuple else None
    return len(first) if isinstance(first, Tensor) and first.ndim else extract_batch_size(batch)
