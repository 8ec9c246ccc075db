"""The progress bar of a run."""

import io

from rich.console import Console

from flash_pl import PDST, FederatedTrainer
from flash_pl.callbacks import Callback, ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_shows_rounds_and_the_named_metrics(unaware, tiny_data):
    seen = []

    class Watch(Callback):
        def on_round_end(self, loop, row):
            (task,) = bar.bar.tasks
            seen.append((task.completed, task.description, f"val_loss {row['val_loss']:.3f}  density 0.200"))

    bar = ProgressBar(("val_loss", "nothing", "density"), Console(file=Terminal(), width=120))
    settings = {"density": 0.2, "rounds": 2, "cohort": 2, "accelerator": "cpu"}
    FederatedTrainer(PDST(), callbacks=[bar, Watch()], **settings).fit(unaware(), tiny_data)
    assert [done for done, _, _ in seen] == [1, 2]
    assert all(shown == expected for _, shown, expected in seen)
