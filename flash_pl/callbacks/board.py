"""Sends every round to the loggers, grouped as TensorBoard shows them."""

from flash_pl.loops import FederatedLoop

GROUPS = {
    "acc": "accuracy",
    "bytes": "cost",
    "flops": "cost",
    "loss": "loss",
    "mismatch": "mask",
    "density": "mask",
    "moved": "mask",
    "seconds": "time",
}


class Board:
    """Logs every round's metrics by group (``accuracy/``, ``loss/``, ``mask/``, ...) and the layer densities."""

    def on_round_end(self, loop: FederatedLoop, row: dict[str, float]) -> None:
        scalars = {f"{group(name)}/{name}": value for name, value in row.items() if name != "round"}
        layout = loop.server.layout
        for layer, density in zip(layout.layers, layout.densities(loop.server.mask).tolist(), strict=True):
            scalars[f"layer_density/{layer.name.removesuffix('.weight')}"] = density
        loop.fabric.log_dict(scalars, step=loop.round)


def group(name: str) -> str:
    """The group of a metric.

    >>> group("val_acc_union"), group("mismatch_server"), group("train_f1")
    ('accuracy', 'mask', 'client')
    """
    return next((section for part, section in GROUPS.items() if part in name), "client")
