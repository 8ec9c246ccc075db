"""Attributes of a client that may change, but must stay the same tensor."""

from typing import overload

from torch import Tensor


class InPlace:
    """An attribute that holds the tensor to which ``_NAME`` of its object refers; nothing else can be assigned to it.

    Python assigns the same tensor again at the end of ``client.weights *= 2``, which is therefore allowed.

    Args:
        remedy: what to do instead, for the message.

    >>> import torch
    >>> class Holder:
    ...     weights = InPlace("change it in place")
    ...     def __init__(self):
    ...         self._weights = torch.ones(2)
    >>> holder = Holder()
    >>> holder.weights *= 2
    >>> holder.weights
    tensor([2., 2.])
    >>> holder.weights = torch.zeros(2)
    Traceback (most recent call last):
    AttributeError: Holder.weights cannot be another tensor; change it in place
    """

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "InPlace": ...

    @overload
    def __get__(self, instance: object, owner: type) -> Tensor: ...

    def __get__(self, instance: object | None, owner: type) -> "Tensor | InPlace":
        if instance is None:
            return self
        tensor: Tensor = getattr(instance, f"_{self.name}")
        return tensor

    def __set__(self, instance: object, value: object) -> None:
        if value is not getattr(instance, f"_{self.name}"):
            raise AttributeError(f"{type(instance).__name__}.{self.name} cannot be another tensor; {self.remedy}")
