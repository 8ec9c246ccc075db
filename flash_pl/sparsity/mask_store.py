"""Many clients' masks, at a bit a weight."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from flash_pl.checkpoint import Stateful


def pack_bits(mask: Tensor) -> Tensor:
    """A mask (bool ``[n]``, any device) as bits on the CPU, uint8 ``[ceil(n / 8)]``, the first weight in the high bit.

    >>> pack_bits(torch.tensor([True, False, True, False, False, False, False, False, True]))
    tensor([160, 128], dtype=torch.uint8)
    """
    if mask.device.type == "cpu":
        return torch.from_numpy(np.packbits(mask.numpy()))
    return pack_bits_there(mask).cpu()


def pack_bits_there(mask: Tensor) -> Tensor:
    """What ``pack_bits`` makes, on the device of the mask: an eighth of it is left to be copied."""
    eights = pad(mask.byte(), (0, -len(mask) % 8)).view(-1, 8)
    return (eights << torch.arange(7, -1, -1, dtype=torch.uint8, device=mask.device)).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, size: int) -> Tensor:
    """The mask of ``size`` weights that ``pack_bits`` packed, on the CPU."""
    return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).view(bool))


BLOCK = 4 << 20  # bytes


class MaskStore(Stateful):
    """The masks of clients by their ids.

    Equal masks are kept once: where masks never move that is a single one for all clients, where each client moves its
    own it is one a client. They lie in blocks of some megabytes; by themselves they would be scattered over memory and
    keep it from being returned.
    """

    def __init__(self) -> None:
        self.size = 0  # weights of a mask
        self._blocks: list[Tensor] = []  # uint8 [rows of a block, bytes of a mask] each
        self._row: dict[int, int] = {}  # by client
        self._holders: list[int] = []  # clients of a row
        self._digest: dict[int, bytes] = {}  # of a row in use
        self._row_of: dict[bytes, int] = {}  # by digest
        self._free: list[int] = []

    def __len__(self) -> int:
        """Number of clients."""
        return len(self._row)

    def __contains__(self, client: int) -> bool:
        return client in self._row

    @property
    def nbytes(self) -> int:
        """Bytes of the masks that are kept."""
        return len(self._row_of) * -(-self.size // 8)

    def get(self, client: int) -> Tensor | None:
        """The client's mask, bool ``[size]`` on the CPU, or None."""
        return unpack_bits(self._bits(self._row[client]), self.size) if client in self._row else None

    def put(self, client: int, mask: Tensor) -> None:
        """Keep a copy of the client's mask, bool ``[size]`` on any device, in place of the one before."""
        self._put(client, pack_bits(mask), len(mask))

    def _put(self, client: int, bits: Tensor, size: int) -> None:
        digest = hashlib.blake2b(bits.numpy().data, digest_size=16).digest()
        row = self._row_of.get(digest)
        if row is None:
            row = self._new_row(bits, size)
            self._row_of[digest], self._digest[row] = row, digest
        self._holders[row] += 1
        before, self._row[client] = self._row.get(client), row
        if before is not None:
            self._holders[before] -= 1
            if not self._holders[before]:
                del self._row_of[self._digest.pop(before)]
                self._free.append(before)

    def _new_row(self, bits: Tensor, size: int) -> int:
        if not self._blocks:
            self.size, self._rows = size, min(1024, max(1, BLOCK // max(1, len(bits))))
        if not self._free:
            first = len(self._holders)
            self._blocks.append(torch.empty(self._rows, len(bits), dtype=torch.uint8))
            self._holders += [0] * self._rows
            self._free = list(range(first + self._rows - 1, first - 1, -1))
        row = self._free.pop()
        self._bits(row).copy_(bits)
        return row

    def _bits(self, row: int) -> Tensor:
        return self._blocks[row // self._rows][row % self._rows]

    def state_dict(self) -> dict[str, Any]:
        """The same for the same masks, however they came here."""
        clients = sorted(self._row)
        rows = list(dict.fromkeys(self._row[client] for client in clients))
        place = {row: index for index, row in enumerate(rows)}
        return {
            "size": self.size,
            "masks": torch.stack([self._bits(row) for row in rows]) if rows else torch.empty(0, 0, dtype=torch.uint8),
            "of": {client: place[self._row[client]] for client in clients},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        for client, place in state["of"].items():
            self._put(client, state["masks"][place], state["size"])
