"""Schedulers under trial in the search for a better method (``trials.py``); what was kept is in the package."""

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
