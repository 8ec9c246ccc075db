"""The curves of a run in TensorBoard: scalars with a description, without those that never change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, float64, tensor

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class Curves:
    """Decides which scalars of a run are drawn.

    A scalar is held back as long as its value is the same in all rounds: a chart of a constant, or of one point, says
    nothing. As soon as another value comes, the first and the last of the equal values are drawn before it.

    Args:
        always: tags that are drawn from the first value on.

    Attributes:
        held: what is held back, by tag: the first step, the last step, the value.

    >>> curves = Curves()
    >>> curves.add(1, {"mask/density": 0.1, "mask/moved": 7.0})
    {}
    >>> curves.add(2, {"mask/density": 0.1, "mask/moved": 7.0})
    {}
    >>> curves.add(3, {"mask/density": 0.1, "mask/moved": 5.0})
    {1: {'mask/moved': 7.0}, 2: {'mask/moved': 7.0}, 3: {'mask/moved': 5.0}}
    >>> curves.held
    {'mask/density': (1, 3, 0.1)}
    """

    def __init__(self, always: Collection[str] = ()) -> None:
        self.always = always
        self.held: dict[str, tuple[int, int, float]] = {}
        self._drawn = set(always)
        self._earlier: tuple[int, Collection[str]] = (0, ())

    def resume(self, first: int, drawn: Collection[str]) -> None:
        """Continue a run whose event files have the tags ``drawn`` in steps before ``first``."""
        self._earlier = first, drawn
        self._drawn |= set(drawn) - self.held.keys()

    def add(self, step: int, values: Mapping[str, float]) -> dict[int, dict[str, float]]:
        """Take the values of a step; return the values to draw now, by step and tag."""
        points: dict[int, dict[str, float]] = defaultdict(dict)
        for tag, value in values.items():
            if tag not in self._drawn:
                start, last, before = self.held.get(tag, (step, step, value))
                if value == before or (isnan(value) and isnan(before)):
                    self.held[tag] = start, step, value
                    continue
                self._drawn.add(tag)
                self.held.pop(tag)
                for old in sorted({start, last}):
                    if not self._is_in_files(tag, old):
                        points[old][tag] = before
            points[step][tag] = value
        return dict(sorted(points.items()))

    def state(self) -> dict[str, Tensor]:
        """What is held back, for a checkpoint."""
        return {tag: tensor(values, dtype=float64) for tag, values in self.held.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` returned."""
        values = {tag: saved.tolist() for tag, saved in state.items()}
        self.held = {tag: (int(start), int(last), value) for tag, (start, last, value) in values.items()}

    def _is_in_files(self, tag: str, step: int) -> bool:
        """Whether a process before this one has drawn the step: it had seen another value after the checkpoint."""
        first, drawn = self._earlier
        return tag in drawn and step < first


def write_scalars(writer: SummaryWriter, step: int, values: Mapping[str, float]) -> None:
    """Write the scalars of a step as one event."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    writer._get_file_writer().add_summary(summary, step)


def write_descriptions(writer: SummaryWriter, step: int, descriptions: Mapping[str, str]) -> None:
    """Write what scalars mean, before their first value: TensorBoard ignores it beside a value and after it."""
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata

    plugin = SummaryMetadata.PluginData(plugin_name="scalars")
    metadata = {
        tag: SummaryMetadata(summary_description=text, plugin_data=plugin) for tag, text in descriptions.items() if text
    }
    summary = Summary(value=[Summary.Value(tag=tag, metadata=data) for tag, data in metadata.items()])
    writer._get_file_writer().add_summary(summary, step)


def drawn_before(folder: str, step: int) -> set[str]:
    """Return the tags of the scalars that the event files in a folder have in steps before ``step``.

    A file that begins with a step, since a run was resumed, replaces that step and later ones. TensorBoard's own reader
    knows that, too, and warns about each replaced value as if something were wrong.
    """
    from tensorboard.backend.event_processing.event_file_loader import (  # type: ignore[import-untyped]
        LegacyEventFileLoader,
    )
    from tensorboard.compat.proto.event_pb2 import SessionLog  # type: ignore[import-untyped]

    first: dict[str, int] = {}  # the first step of each tag
    for file in sorted(Path(folder).glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(file)).Load():
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                first = {tag: number for tag, number in first.items() if number < event.step}
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    first[value.tag] = min(event.step, first.get(value.tag, event.step))
    return {tag for tag, number in first.items() if number < step}
