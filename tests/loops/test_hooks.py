"""A hook names the arguments that it uses; the rest is kept from it."""

from typing import Any

import pytest
from lightning.fabric import Fabric

from flash_pl.loops import call_hooks


class Named:
    def __init__(self) -> None:
        self.got: dict[str, Any] = {}

    def on_round_end(self, row: Any) -> None:
        self.got = {"row": row}


class Everything(Named):
    def on_round_end(self, **arguments: Any) -> None:
        self.got = arguments


class Optional(Named):
    def on_round_end(self, loop: Any, other: Any = 3) -> None:
        self.got = {"loop": loop, "other": other}


def test_a_hook_gets_the_arguments_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a Lightning before 2.6, whose Fabric cannot select them."""
    monkeypatch.delattr(Fabric, "_filter_kwargs_for_callback", raising=False)
    callbacks = [Named(), Everything(), Optional()]
    call_hooks(Fabric(accelerator="cpu", callbacks=callbacks), "on_round_end", loop=1, row=2)
    assert [each.got for each in callbacks] == [{"row": 2}, {"loop": 1, "row": 2}, {"loop": 1, "other": 3}]
