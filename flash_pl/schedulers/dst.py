"""Dynamic sparse training inside a client: the mask moves while the weights train."""

from flash_pl.client import ClientContext, ClientState
from flash_pl.errors import ConfigError
from flash_pl.schedulers.base import SparseScheduler
from flash_pl.sparsity import FirstMask, Move


class DynamicSparseTraining(SparseScheduler):
    """Clients move their mask by magnitude pruning and random growth (FLASH, section "DST").

    p_t falls linearly from ``prune_rate`` to 0 over the client's steps. The mask moves at the end of every local epoch
    but the last; with a single epoch once, after batch index floor(batches / 2).

    Args:
        prune_rate: p, in (0, 1].
        move: how a mask moves.
        first_mask: as in :class:`SparseScheduler`.
    """

    def __init__(
        self,
        prune_rate: float = 0.25,
        move: Move | None = None,
        first_mask: FirstMask | None = None,
    ) -> None:
        super().__init__(first_mask)
        if not 0 < prune_rate <= 1:
            raise ConfigError("prune_rate", prune_rate, "a number in (0, 1]")
        self.prune_rate = prune_rate
        self.move = move or Move()

    def moves_in(self, round: int) -> bool:
        """Whether masks move in this round."""
        return True

    def on_batch_end(self, client: ClientState, step: int) -> None:
        context = client.context
        if not (self.moves_in(context.round) and self.due(context, step)):
            return
        rate = self.prune_rate * (1 - step / context.steps)
        moved = self.move(client.layout, client.weights, client.mask, rate, context.generator(f"move {step}"))
        client.move_mask_(moved.mask, moved.survivors)

    def due(self, context: ClientContext, step: int) -> bool:
        """Whether the mask moves after the client's ``step``-th step (from 1)."""
        if context.epochs == 1:
            return step == context.batches // 2 + 1
        return step % context.batches == 0 and step < context.steps
