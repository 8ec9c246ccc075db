"""Schedulers under trial in the search for a better method (``trials.py``); what was kept is in the package."""

from candidates.activity import Active
from candidates.draws import NarrowDraw
from candidates.fixed import Formula, Largest, Salient
from candidates.moving import Alive, Grows, Latent, ServerMoves, Smallest

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
