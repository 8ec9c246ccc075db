"""Under which heading TensorBoard shows a metric."""

import re
from collections.abc import Collection

MODEL = {"acc": "accuracy", "accuracy": "accuracy", "loss": "loss"}
GROUPS = MODEL | {
    "bytes": "cost",
    "flops": "cost",
    "fleet": "cost",
    "late": "cost",
    "mismatch": "mask",
    "density": "mask",
    "moved": "mask",
    "held": "mask",
    "seconds": "time",
}


def group(name: str, evaluated: Collection[str] = ()) -> str:
    """The group of a metric, by the words in its name.

    Args:
        evaluated: the metrics that an evaluation of the server gave; others without a group are the clients'.

    >>> group("val_acc_union"), group("mismatch_server"), group("train_f1"), group("fleet_seconds")
    ('accuracy', 'mask', 'client', 'cost')
    >>> group("val_latency", ["val_latency"]), group("translate_bleu")
    ('server', 'client')
    """
    known, other = (MODEL, "server") if name in evaluated else (GROUPS, "client")
    words = re.findall("[a-z]+", name.lower())
    return next((section for word, section in known.items() if word in words), other)
