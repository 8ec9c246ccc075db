"""Masks packed to one bit per weight, and a store of every client's mask."""

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from flash_pl.checkpoint import Stateful

BLOCK = 4 << 20  # bytes of a block
CPU = torch.device("cpu")


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
    """Return the mask of ``size`` weights that ``pack_bits`` packed, bool ``[size]`` on the device of ``bits``.

    >>> unpack_bits(torch.tensor([160], dtype=torch.uint8), 3)
    tensor([ True, False,  True])
    """
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), count=size).view(bool))
    return unpack_bits_on_device(bits, size)


def unpack_bits_on_device(bits: Tensor, size: int) -> Tensor:
    """Unpack bits as ``unpack_bits`` does, but on their device, so that only one bit per weight was copied before."""
    places = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(1) >> places & 1).view(-1)[:size].bool()


def on_device(mask: Tensor, device: torch.device) -> Tensor:
    """Return a mask (bool ``[n]``) on ``device``. Between the CPU and another device it goes at one bit per weight."""
    return mask if mask.device == device else unpack_bits(pack_bits(mask).to(device), len(mask))


class MaskStore(Stateful):
    """The masks of clients by client id, at one bit per weight.

    Equal masks share one copy. So the store holds a single mask if all clients have the same one, and one per client if
    every client moves its own.

    Masks lie in blocks of some megabytes. One allocation per mask would scatter them between the temporary tensors of
    training, and the process would hold about five times the memory of the masks
    (benchmarks/speed/mask_memory.py).

    The blocks are in the host's memory, also if clients train on a GPU: there are up to as many masks as clients, of
    which a round needs those of its cohort. These go to the GPU and back at one bit per weight, and are unpacked there.

    >>> store = MaskStore()
    >>> store.put(0, torch.tensor([True, False, True]))
    >>> store.put(7, torch.tensor([True, False, True]))
    >>> store.get(7), len(store), store.nbytes
    (tensor([ True, False,  True]), 2, 1)
    """

    def __init__(self) -> None:
        self.size = 0  # weights of a mask
        self._blocks: list[Tensor] = []  # uint8 [rows of a block, bytes of a mask] each
        self._row: dict[int, int] = {}  # by client
        self._clients: list[int] = []  # number of clients of each row
        self._row_of: dict[bytes, int] = {}  # by digest of the mask
        self._digest: dict[int, bytes] = {}  # by row in use
        self._free_rows: list[int] = []
        self._checksum = 0  # of all pairs of a client and its mask

    def __len__(self) -> int:
        """Number of clients."""
        return len(self._row)

    def __contains__(self, client: int) -> bool:
        return client in self._row

    @property
    def nbytes(self) -> int:
        """Bytes of all stored masks."""
        return len(self._row_of) * -(-self.size // 8)

    def get(self, client: int, device: torch.device = CPU) -> Tensor | None:
        """Return the client's mask, bool ``[size]`` on ``device``, or None."""
        return unpack_bits(self._bits(self._row[client]).to(device), self.size) if client in self._row else None

    def put(self, client: int, mask: Tensor) -> None:
        """Store a copy of the client's mask (bool ``[size]``, any device) and forget the previous one."""
        self._put(client, pack_bits(mask), len(mask))

    def _put(self, client: int, bits: Tensor, size: int) -> None:
        digest = hashlib.blake2b(bits.numpy().data, digest_size=16).digest()
        row = self._row_of.get(digest)
        if row is None:
            row = self._fill_row(bits, size)
            self._row_of[digest], self._digest[row] = row, digest
        self._clients[row] += 1
        previous, self._row[client] = self._row.get(client), row
        self._checksum += _number(client, digest)
        if previous is not None:
            self._checksum -= _number(client, self._digest[previous])
            self._clients[previous] -= 1
            if not self._clients[previous]:
                del self._row_of[self._digest.pop(previous)]
                self._free_rows.append(previous)

    def _fill_row(self, bits: Tensor, size: int) -> int:
        """Copy a mask into a free row; if no row is free, add a block of rows first."""
        if not self._blocks:
            self.size, self._rows_per_block = size, min(1024, max(1, BLOCK // max(1, len(bits))))
        if not self._free_rows:
            first = len(self._clients)
            self._blocks.append(torch.empty(self._rows_per_block, len(bits), dtype=torch.uint8))
            self._clients += [0] * self._rows_per_block
            self._free_rows = list(range(first + self._rows_per_block - 1, first - 1, -1))
        row = self._free_rows.pop()
        self._bits(row).copy_(bits)
        return row

    def _bits(self, row: int) -> Tensor:
        return self._blocks[row // self._rows_per_block][row % self._rows_per_block]

    def state_dict(self) -> dict[str, Any]:
        """Return the masks; the result depends on the stored masks alone, not on the order of the calls of ``put``."""
        clients = sorted(self._row)
        rows = list(dict.fromkeys(self._row[client] for client in clients))
        index = {row: place for place, row in enumerate(rows)}
        return {
            "size": self.size,
            "masks": torch.stack([self._bits(row) for row in rows]) if rows else torch.empty(0, 0, dtype=torch.uint8),
            "of": {client: index[self._row[client]] for client in clients},
        }

    def compared_state(self) -> dict[str, Any]:
        """Return the number of clients and a sum of digests, which ``put`` keeps up to date.

        So the work of a comparison does not grow with the number of masks. A mask counts as it was when it was stored.
        """
        return {"clients": len(self), "checksum": self._checksum}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]
        for client, place in state["of"].items():
            self._put(client, state["masks"][place], state["size"])


def _number(client: int, digest: bytes) -> int:
    """A number of 128 bits for a client with a mask of this digest."""
    return int.from_bytes(hashlib.blake2b(b"%d:%b" % (client, digest), digest_size=16).digest(), "little")
