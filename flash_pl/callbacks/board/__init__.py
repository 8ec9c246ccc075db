"""What TensorBoard shows of a run."""

from flash_pl.callbacks.board.board import Board

__all__ = ["Board"]
