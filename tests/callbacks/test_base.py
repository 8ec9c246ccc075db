"""The hooks of a callback."""

import inspect
import re
from pathlib import Path

import pytest

import flash_pl
from flash_pl import callbacks
from flash_pl.callbacks import Callback

HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


def test_the_package_calls_every_hook_and_no_other_name():
    files = Path(flash_pl.__file__).parent.rglob("*.py")
    called = {name for path in files for name in re.findall(r'_hooks\([\w.,\s]*"(\w+)"', path.read_text())}
    assert called == set(HOOKS)


def test_every_shipped_callback_is_a_callback_with_the_parameters_of_the_hooks():
    for cls in [getattr(callbacks, name) for name in callbacks.__all__]:
        assert issubclass(cls, Callback)
        for hook in HOOKS:
            parameters = inspect.signature(getattr(cls, hook)).parameters
            assert list(parameters) == list(inspect.signature(getattr(Callback, hook)).parameters)


def test_a_misspelt_hook_is_refused_when_the_class_is_defined():
    with pytest.raises(TypeError, match=r"Misspelt\.on_round_ends .*did you mean on_round_end\?"):

        class Misspelt(Callback):
            def on_round_ends(self, loop, row):
                pass


def test_a_hook_of_lightning_is_refused():
    with pytest.raises(TypeError, match="on_before_zero_grad .*the hooks are on_run_start, "):

        class OfLightning(Callback):
            def on_before_zero_grad(self, trainer, module, optimizer):
                pass
