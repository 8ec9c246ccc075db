"""Another ``forward`` for a single layer."""

from abc import ABC, abstractmethod
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

Layer = TypeVar("Layer", bound=nn.Module)


class Forward(ABC, Generic[Layer]):
    """Stands in the place of a layer's ``forward``, as an attribute of the layer.

    A copy of the layer (a teacher, a mean of models), or the layer out of a pickle, computes by torch with its own
    weights: what is copied or pickled in the place of this is the ``forward`` of the layer's class.

    Args:
        module: the layer.
    """

    def __init__(self, module: Layer) -> None:
        self.module = module

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self.module, "forward")  # asked of a layer that has no attributes yet
