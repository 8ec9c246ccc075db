"""What a round costs: bytes that really are sent, and floating-point operations."""

from flash_pl.costs.bill import Bill, by_name
from flash_pl.costs.flops import Flops, count_flops
from flash_pl.costs.link import Link
from flash_pl.costs.traffic import Traffic, entropy_bits, price

__all__ = ["Bill", "Flops", "Link", "Traffic", "by_name", "count_flops", "entropy_bits", "price"]
