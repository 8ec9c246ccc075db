"""Under which heading TensorBoard shows a metric."""

GROUPS = {
    "acc": "accuracy",
    "bytes": "cost",
    "flops": "cost",
    "fleet": "cost",
    "late": "cost",
    "loss": "loss",
    "mismatch": "mask",
    "density": "mask",
    "moved": "mask",
    "held": "mask",
    "seconds": "time",
}


def group(name: str) -> str:
    """The group of a metric.

    >>> group("val_acc_union"), group("mismatch_server"), group("train_f1"), group("fleet_seconds")
    ('accuracy', 'mask', 'client', 'cost')
    """
    return next((section for part, section in GROUPS.items() if part in name), "client")
