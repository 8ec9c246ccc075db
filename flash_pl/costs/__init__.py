"""What a round costs: bytes that really are sent, floating-point operations, and the time of a fleet of devices."""

from flash_pl.costs.fleet import Clock, Device, Fleet
from flash_pl.costs.flops import Flops, count_flops
from flash_pl.costs.ledger import Bill, CostLedger
from flash_pl.costs.traffic import Link, Traffic, WireFormat, by_name, entropy_bits, price

__all__ = [
    "CostLedger",
    "Bill",
    "Clock",
    "Device",
    "Fleet",
    "Flops",
    "Link",
    "Traffic",
    "WireFormat",
    "by_name",
    "count_flops",
    "entropy_bits",
    "price",
]
