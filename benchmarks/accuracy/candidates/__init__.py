"""Schedulers that were tried in the search for STEAD (``trials.py``). The package has only STEAD itself."""

from candidates.activity import Active
from candidates.draws import NarrowDraw
from candidates.dropping import Alive, Smallest
from candidates.fixed import Formula, Largest, Salient
from candidates.moving import Grows, Latent, ServerMoves

__all__ = [
    "Active",
    "Alive",
    "Formula",
    "Grows",
    "Largest",
    "Latent",
    "NarrowDraw",
    "Salient",
    "ServerMoves",
    "Smallest",
]
