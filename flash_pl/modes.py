"""Training and evaluation, part by part: what a user has frozen in evaluation mode stays so."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Meanwhile all of the network is in evaluation mode; then every part is in its own again, errors or not."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
