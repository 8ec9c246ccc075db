"""Many clients' masks, at a bit a weight."""

import hashlib
from typing import Any

import torch
from torch import Tensor

from flash_pl.sparsity.bits import pack_bits, unpack_bits
from flash_pl.state import Stateful


class MaskStore(Stateful):
    """The masks of clients by their ids.

    Equal masks are kept once: where masks never move that is a single one for all clients, where each client moves its
    own it is one a client. They lie in one block that grows by doubling; many small ones would be scattered over
    memory and keep it from being returned.
    """

    def __init__(self) -> None:
        self.size = 0  # weights of a mask
        self._block = torch.empty(0, 0, dtype=torch.uint8)  # [rows, bytes of a mask]
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
        return len(self._row_of) * self._block.shape[1]

    def get(self, client: int) -> Tensor | None:
        """The client's mask, bool ``[size]`` on the CPU, or None."""
        return unpack_bits(self._block[self._row[client]], self.size) if client in self._row else None

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
        if not self._row:
            self.size, self._block = size, torch.empty(1, len(bits), dtype=torch.uint8)
            self._holders, self._free = [], []
        if not self._free and len(self._holders) == len(self._block):
            self._block = torch.cat([self._block, torch.empty_like(self._block)])
        if self._free:
            row = self._free.pop()
        else:
            row = len(self._holders)
            self._holders.append(0)
        self._block[row] = bits
        return row

    def state_dict(self) -> dict[str, Any]:
        """The same for the same masks, however they came here."""
        clients = sorted(self._row)
        rows = list(dict.fromkeys(self._row[client] for client in clients))
        place = {row: index for index, row in enumerate(rows)}
        return {
            "size": self.size,
            "masks": self._block[rows].clone(),
            "of": {client: place[self._row[client]] for client in clients},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        for client, place in state["of"].items():
            self._put(client, state["masks"][place], state["size"])
