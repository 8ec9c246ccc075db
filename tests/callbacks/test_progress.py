"""What a run shows while it trains: a bar in a terminal or a notebook, lines in a log file."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from flash_pl import JMWST, PDST, Dense, FederatedTrainer
from flash_pl.callbacks import Callback, ProgressBar, ProgressLines, RunSummary, progress
from flash_pl.callbacks.progress import fitted
from flash_pl.errors import RunError
from flash_pl.units import percent


class Terminal(io.StringIO):
    def isatty(self):
        return True


def fit(module, data, callbacks, scheduler=None, rounds=2, **settings):
    settings = {"density": 0.2, "cohort": 2, "accelerator": "cpu"} | settings
    return FederatedTrainer(scheduler or PDST(), rounds=rounds, callbacks=callbacks, **settings).fit(module, data)


def test_the_bar_shows_rounds_and_the_named_metrics(unaware, tiny_data):
    seen = []

    class Watch(Callback):
        def on_round_end(self, loop, row):
            (task,) = bar.bar.tasks
            shown = fitted(bar.parts(), None)
            seen.append((task.completed, shown, f"val_loss {row['val_loss']:.4f}  density {row['density']:.4f}"))

    bar = ProgressBar(("val_loss", "nothing", "density"), Console(file=Terminal(), width=120))
    for _ in range(2):
        fit(unaware(), tiny_data, [bar, Watch()])
    assert [done for done, _, _ in seen] == [1, 2, 1, 2]
    assert all(expected in shown for _, shown, expected in seen)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_narrow_terminal_keeps_the_parts_that_matter_in_one_line(width, unaware, tiny_data):
    class Watch(Callback):
        def on_round_end(self, loop, row):
            bar.bar.refresh()

    file = Terminal()
    bar = ProgressBar(console=Console(file=file, width=width, force_terminal=True, color_system=None))
    fit(unaware(), tiny_data, [bar, Watch()], rounds=3)
    lines = re.sub(r"\x1b\[[?\d]*[A-Za-z]", "\n", file.getvalue()).replace("\r", "\n").split("\n")
    assert max(map(len, lines)) <= width
    second = [line for line in lines if line.startswith("round 2/3")]
    order = ["round 2/3", " left", "val_acc", "val_loss", "density", "a round", "so far"]
    there = [part in second[-1] for part in order]
    assert there == sorted(there, reverse=True) and sum(there) >= {20: 1, 40: 3, 60: 4, 80: 5, 120: 7}[width]
    assert "val_acc" not in second[-1] or re.search(r"val_acc \d+\.\d %", second[-1])


def test_a_dense_run_does_not_show_its_density(unaware, tiny_data):
    file = io.StringIO()
    fit(unaware(), tiny_data, [ProgressLines(file=file)], Dense())
    assert "val_loss" in file.getvalue() and "density" not in file.getvalue()


def test_the_bar_in_a_notebook_is_one_output_that_changes(unaware, tiny_data, monkeypatch):
    shown = []

    class Handle:
        def update(self, bar):
            (task,) = bar.tasks
            shown.append((task.completed, "<pre" in bar._repr_mimebundle_([], [])["text/html"]))

    pytest.importorskip("IPython")
    monkeypatch.setattr("IPython.display.display", lambda bar, display_id: Handle() if display_id else None)
    fit(unaware(), tiny_data, [ProgressBar(console=Console(file=io.StringIO(), force_jupyter=True))])
    assert shown[-1] == (2, True)


class Clock:
    """A clock on which every round takes ``seconds``."""

    def __init__(self, seconds, monkeypatch):
        self.now, self.seconds = 100.0, seconds
        monkeypatch.delenv("COLUMNS", raising=False)  # lines have no limit then
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))

    def callback(self):
        class Tick(Callback):
            def on_round_end(_, loop, row):
                self.now += self.seconds

        return Tick()


ROUND = re.compile(r"round (\d+)/(\d+)")


def rounds_in(text):
    return [int(ROUND.match(line)[1]) for line in text.splitlines()]


@pytest.mark.parametrize(
    ("seconds", "rounds", "expected"),
    [(60.0, 4, [1, 2, 3, 4]), (1.0, 25, [1, 11, 21, 25]), (0.001, 30, [1, 30])],
)
def test_fast_rounds_have_a_line_only_now_and_then(seconds, rounds, expected, unaware, tiny_data, monkeypatch):
    clock, file = Clock(seconds, monkeypatch), io.StringIO()
    for _ in range(2):
        file.seek(0)
        file.truncate()
        fit(unaware(), tiny_data, [clock.callback(), ProgressLines(file=file)], rounds=rounds, cohort=1)
        assert rounds_in(file.getvalue()) == expected


def test_a_line_has_the_pace_the_time_left_and_the_metrics(unaware, tiny_data, monkeypatch):
    clock, file = Clock(90.0, monkeypatch), io.StringIO()
    loop = fit(unaware(), tiny_data, [clock.callback(), ProgressLines(["val_acc", "other"], file=file)], rounds=3)
    first, *_, last = file.getvalue().splitlines()
    assert (
        all(part in first for part in ("round 1/3", "1 min 30 s a round", "3 min 0 s left", "1 min 30 s so far"))
        and "other" not in first
    )
    assert f"val_acc {percent(loop.metrics['val_acc'])}" in last and "left" not in last


def test_stage_1_has_lines_too_and_does_not_count_as_a_round(unaware, tiny_data, monkeypatch):
    clock, file = Clock(1.0, monkeypatch), io.StringIO()

    class SlowStage(Callback):
        def on_first_stage_client_end(self, loop, done, total):
            clock.now += 1000.0

    fit(unaware(), tiny_data, [SlowStage(), clock.callback(), ProgressLines(file=file)], JMWST())
    stage, first = file.getvalue().splitlines()[0], file.getvalue().splitlines()[-2]
    assert "stage 1" in stage and "1.00 s" in first


def test_the_last_round_of_a_run_that_ends_early_has_a_line(unaware, tiny_data, monkeypatch):
    class Stop(Callback):
        def __init__(self, error):
            self.error = error

        def on_round_end(self, loop, row):
            loop.should_stop = loop.round == 3
            if loop.round == 3 and self.error:
                raise RunError("full")

    for error in (False, True):
        clock, file = Clock(0.1, monkeypatch), io.StringIO()
        callbacks = [clock.callback(), ProgressLines(file=file), Stop(error)]
        if error:
            with pytest.raises(RunError):
                fit(unaware(), tiny_data, callbacks, rounds=9)
        else:
            fit(unaware(), tiny_data, callbacks, rounds=9)
        assert rounds_in(file.getvalue()) == [1, 3]


def test_displays_are_added_unless_they_are_switched_off(monkeypatch):
    def kinds(**settings):
        trainer = FederatedTrainer(PDST(), accelerator="cpu", **settings)
        return [type(callback) for callback in trainer.callbacks]

    both = {"enable_progress_bar": True, "enable_model_summary": True}
    assert kinds(**both) == [RunSummary, ProgressLines]
    assert kinds(enable_progress_bar=False, enable_model_summary=False) == []
    assert kinds(**both, callbacks=[ProgressBar()]) == [ProgressBar, RunSummary]
    monkeypatch.setattr("sys.stderr", Terminal())
    assert kinds(**both) == [RunSummary, ProgressBar]
