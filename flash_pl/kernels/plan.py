"""Which images share vectors: a rule drawn from ``benchmarks/speed/layers.py``."""

from flash_pl.kernels.geometry import ConvShape, Plan, geometry

LANES = 16  # images interleaved: one vector of the widest instruction set
WIDE = 32  # output columns from which vectors over pixels win
STACK = 1024  # positions of a plane that are enough to hide the cost of a row of weights
SCRATCH = 1 << 22  # floats of scratch memory that lanes may take


def best_plan(shape: ConvShape, batch: int) -> Plan:
    """The plan for a batch of ``batch`` images; it does not depend on the number of threads.

    >>> shape = ConvShape(channels=8, size=(16, 16), outputs=8, kernel=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> best_plan(shape, 32), best_plan(shape, 3)
    (Plan(stack=1, lanes=16), Plan(stack=3, lanes=1))
    """
    filled = max(1, -(-batch // LANES)) * LANES
    if shape.size == (1, 1):
        return Plan(lanes=min(2 * LANES, filled))
    narrow = shape.out_size[1] < WIDE
    if narrow and filled <= 1.5 * batch:
        plan = Plan(lanes=LANES)
        if geometry(shape, plan).backward_floats <= SCRATCH:
            return plan
    height, width = shape.out_size
    return Plan(stack=max(1, min(batch, STACK // (height * width))))
