"""What a round costs: bytes that really are sent, floating-point operations, and the time of a fleet of devices."""

from flash_pl.costs.accounts import Accounts
from flash_pl.costs.bill import Bill
from flash_pl.costs.clock import Clock
from flash_pl.costs.fleet import Device, Fleet
from flash_pl.costs.flops import Flops, count_flops
from flash_pl.costs.link import Link, WireFormat
from flash_pl.costs.traffic import Traffic, by_name, entropy_bits, price

__all__ = [
    "Accounts",
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
