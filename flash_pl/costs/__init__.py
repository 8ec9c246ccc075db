"""The costs of a round: bytes that are really sent, floating-point operations, and the time of a fleet of devices."""

from flash_pl.costs.fleet import Clock, Device, Fleet
from flash_pl.costs.flop_counter import count_flops
from flash_pl.costs.flops import Flops, multiply_adds
from flash_pl.costs.ledger import CostLedger
from flash_pl.costs.traffic import Link, Traffic, WireFormat, entropy_bits, traffic_columns

__all__ = [
    "Clock",
    "CostLedger",
    "Device",
    "Fleet",
    "Flops",
    "Link",
    "Traffic",
    "WireFormat",
    "count_flops",
    "entropy_bits",
    "multiply_adds",
    "traffic_columns",
]
