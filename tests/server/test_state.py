"""What the server says of its weights."""

import zlib

import pytest
import torch

from flash_pl.server import ServerState
from flash_pl.sparsity import Layout

TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_fingerprint_is_of_the_bytes_of_weights_of_any_type(dtype):
    layout = Layout(torch.nn.Linear(4, 2).to(dtype))
    server = ServerState.start(layout, torch.linspace(-1, 1, layout.size).to(dtype), 0.5)
    assert server.fingerprint() == zlib.crc32(bytes(server.weights.view(torch.uint8).tolist()))
    before = server.fingerprint()
    server.weights[-1] += 1
    assert server.fingerprint() != before
