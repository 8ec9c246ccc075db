"""Masks packed to one bit per weight, and a store of every client's mask."""

import hashlib
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from flash_pl.checkpoint import Stateful


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a mask (bool ``[n]``, any device) to bits, uint8 ``[ceil(n / 8)]`` on the CPU.

    The first weight of each eight is the highest bit of its byte.

    >>> pack_bits(torch.tensor([True, False, True, False, False, False, False, False, True]))
    tensor([160, 128], dtype=torch.uint8)
    """
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy()))
    return pack_bits_on_device(mask).cpu()


def pack_bits_on_device(mask: Tensor) -> Tensor:
    """Pack a mask as ``pack_bits`` does, but on the mask's device, so that only one bit per weight is copied later."""
    eights = pad(mask.byte(), (0, -len(mask) % 8)).view(-1, 8)
    return (eights << torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, size: int) -> Tensor:
    """Return the mask of ``size`` weights that ``pack_bits`` packed, bool ``[size]`` on the CPU.

    >>> unpack_bits(torch.tensor([160], dtype=torch.uint8), 3)
    tensor([ True, False,  True])
    """
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).view(bool))


class MaskStore(Stateful):
    """The masks of clients by client id, at one bit per weight.

    Equal masks share one copy. So the store holds a single mask if all clients have the same one, and one per client if
    every client moves its own.

    >>> store = MaskStore()
    >>> store.put(0, torch.tensor([True, False, True]))
    >>> store.put(7, torch.tensor([True, False, True]))
    >>> store.get(7), len(store), store.nbytes
    (tensor([ True, False,  True]), 2, 1)
    """

    def __init__(self) -> None:
        self.size = 0  # weights of a mask
        self._bits: dict[int, np.ndarray] = {}  # packed mask of each client
        self._by_digest: WeakValueDictionary[bytes, np.ndarray] = WeakValueDictionary()  # masks that a client has

    def __len__(self) -> int:
        """Number of clients."""
        return len(self._bits)

    def __contains__(self, client: int) -> bool:
        return client in self._bits

    @property
    def nbytes(self) -> int:
        """Bytes of all stored masks."""
        return len(self._by_digest) * -(-self.size // 8)

    def get(self, client: int) -> Tensor | None:
        """Return the client's mask, bool ``[size]`` on the CPU, or None."""
        return unpack_bits(torch.from_numpy(self._bits[client]), self.size) if client in self._bits else None

    def put(self, client: int, mask: Tensor) -> None:
        """Store a copy of the client's mask (bool ``[size]``, any device) and forget the previous one."""
        self.size = len(mask)
        self._put(client, pack_bits(mask).numpy())

    def _put(self, client: int, bits: np.ndarray) -> None:
        digest = hashlib.blake2b(bits.data, digest_size=16).digest()
        self._bits[client] = self._by_digest.setdefault(digest, bits)

    def state_dict(self) -> dict[str, Any]:
        """Return the masks; the result depends on the stored masks alone, not on the order of the calls of ``put``."""
        clients = sorted(self._bits)
        distinct = {id(self._bits[client]): self._bits[client] for client in clients}
        index = {key: place for place, key in enumerate(distinct)}
        return {
            "size": self.size,
            "masks": torch.from_numpy(np.stack(list(distinct.values()))) if distinct else torch.empty(0, 0).byte(),
            "of": {client: index[id(self._bits[client])] for client in clients},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        self.size = state["size"]
        for client, place in state["of"].items():
            self._put(client, state["masks"][place].numpy().copy())
