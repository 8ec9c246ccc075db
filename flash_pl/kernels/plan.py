"""Which plan is the fastest for a shape."""

from flash_pl.kernels.geometry import ConvShape, Plan


def best_plan(shape: ConvShape, batch: int) -> Plan:
    """A rule drawn from ``benchmarks/layers.py``."""
    if shape.size == (1, 1):
        return Plan(lanes=min(32, -(-batch // 16) * 16))
    if shape.out_size[1] >= 16 or batch < 8:
        return Plan()
    return Plan(lanes=16)
