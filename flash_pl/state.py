"""What has something to remember from round to round."""

from typing import Any


class Stateful:
    """The base of all that a checkpoint asks for its state; as it stands there is none."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, in tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
