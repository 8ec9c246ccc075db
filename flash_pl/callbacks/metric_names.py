"""The names under which loggers get the metrics of a round: a group, a name with its unit, and what it means."""

import re
from collections.abc import Collection, Mapping

# The group of a metric by a word in its name; the first word that occurs decides. TensorBoard sorts groups by their
# names, so these are chosen in the order in which they are read: accuracy, evaluation, loss, mask, per_layer,
# resources, time, tradeoff, training.
MODEL_GROUPS = {"acc": "accuracy", "accuracy": "accuracy", "loss": "loss"}
GROUPS = MODEL_GROUPS | {
    "bytes": "resources",
    "messages": "resources",
    "flops": "resources",
    "fleet": "resources",
    "mismatch": "mask",
    "density": "mask",
    "moved": "mask",
    "mask": "mask",
    "masks": "mask",
    "seconds": "time",
}
# Columns of metrics.csv with large numbers, in a unit that is easy to read: beginning, unit, factor.
UNITS = {"bytes": ("MB", 1e-6), "flops": ("GFLOPs", 1e-9)}


def group(name: str, evaluated: Collection[str] = ()) -> str:
    """Return the group of a metric by the words in its name.

    Args:
        evaluated: the metrics that come from an evaluation of the server. Without a word that decides, these are in the
            group "evaluation", and all others in the group "training".

    >>> group("val_acc_union"), group("mismatch_server"), group("train_f1"), group("fleet_seconds")
    ('accuracy', 'mask', 'training', 'resources')
    >>> group("val_latency", ["val_latency"]), group("translate_bleu")
    ('evaluation', 'training')
    """
    groups, default = (MODEL_GROUPS, "evaluation") if name in evaluated else (GROUPS, "training")
    words = re.findall("[a-z]+", name.lower())
    return next((title for word, title in groups.items() if word in words), default)


def tag(name: str, evaluated: Collection[str] = ()) -> str:
    """Return the name under which loggers get a metric, ``GROUP/NAME``.

    Args:
        name: a column of metrics.csv.
        evaluated: see ``group``.

    >>> tag("val_acc"), tag("bytes_up_total"), tag("flops_ratio")
    ('accuracy/val_acc', 'resources/MB_up_total', 'resources/flops_ratio')
    """
    beginning, unit, _ = _unit(name, evaluated)
    return f"{group(name, evaluated)}/{unit}{name.removeprefix(beginning)}"


def grouped(row: Mapping[str, float], layers: Mapping[str, float], evaluated: Collection[str] = ()) -> dict[str, float]:
    """Return the metrics of a round under the names for loggers, in their units.

    Args:
        row: the row of metrics.csv.
        layers: the metrics of layers, the columns of consensus.csv.
        evaluated: see ``group``.

    >>> grouped({"round": 1, "bytes_up": 2_500_000, "bytes_per_token": 3}, {"density/fc1": 0.1})
    {'resources/MB_up': 2.5, 'resources/bytes_per_token': 3, 'per_layer/density/fc1': 0.1}
    """
    names = [name for name in row if name != "round"]
    scaled = {tag(name, evaluated): row[name] * _unit(name, evaluated)[2] for name in names}
    return scaled | {f"per_layer/{name}": value for name, value in layers.items()}


def _unit(name: str, evaluated: Collection[str]) -> tuple[str, str, float]:
    """The beginning of the name that a unit replaces, the unit and the factor; nothing is replaced in other names."""
    beginning = name.partition("_")[0]
    ours = bool(meaning(name))  # a module may log names that begin like these
    if beginning in UNITS and ours and not name.endswith("ratio") and name not in evaluated:
        return beginning, *UNITS[beginning]
    return "", "", 1


# Meanings

PER_ROUND = "one round, all its clients together"
# Of whole names without the density of a tier; docs/howto/metrics.md has the details.
MEANINGS = {
    "train_loss": "mean over the round's clients, weighted by samples",
    "density": "active share of the maskable weights in the server's mask, 0 to 1",
    "density_flops": "share of the dense forward FLOPs of the maskable layers that the server's mask leaves, 0 to 1",
    "density_union": "active share of the maskable weights in the aggregate before the vote, 0 to 1",
    "mismatch_clients": "mean mismatch over pairs of the round's clients, 0 (equal masks) to 1 (nothing in common)",
    "mismatch_server": "mean mismatch between a client's mask and the server's new mask, 0 to 1",
    "mismatch_temporal": "mismatch between the server's new mask and its last one, 0 to 1",
    "moved": "number of weights of the server's mask that were not in its last one",
    "in_all_masks": "of the weights in any mask of the round's clients, the share that is in all masks, 0 to 1",
    "in_one_mask": "of the weights in any mask of the round's clients, the share that is in one mask only, 0 to 1",
    "bytes_once": f"MB that clients receive or send a single time, {PER_ROUND}",
    "flops": f"10^9 floating-point operations of training, {PER_ROUND}",
    "flops_total": "10^9 floating-point operations of training since the beginning, stage 1 included",
    "flops_ratio": "training FLOPs of the round, divided by those of dense training of the same samples",
    "flops_inference": "10^9 floating-point operations for one sample with the server's mask",
    "flops_inference_ratio": "FLOPs for one sample with the server's mask, divided by those of the dense model",
    "fleet_seconds": "simulated seconds of the round on the devices of fleet=...",
    "fleet_seconds_total": "simulated seconds since the beginning on the devices of fleet=...",
    "late": "number of clients that came after the deadline",
    "participants": "number of clients whose updates count",
    "failed": "number of clients left out after an error",
    "messages_up": "number of models that clients sent in time, all attempts at the round together",
    "messages_down": "number of models that clients received, all attempts at the round together",
    "lr_scale": "factor of the module's learning rates in the round",
    "seconds": "measured seconds of the round, evaluation included",
    "seconds_train": "measured seconds of the round without evaluation",
}
SENT = {"up": "sent by the clients", "down": "sent to the clients"}
CONVENTIONS = {
    "": f"length of the messages, {PER_ROUND}",
    "_total": "length of the messages, since the beginning",
    "_entropy": "masks counted by their entropy",
    "_bitmap": "masks counted as one bit per weight",
    "_values": "values alone, without masks",
}
MEANINGS |= {f"bytes_{way}{end}": f"MB {sent}: {how}" for way, sent in SENT.items() for end, how in CONVENTIONS.items()}
# Of evaluations, by the end of their names.
MODELS = {
    "": "the server's model with its mask, after the vote",
    "_best": "the best value so far",
    "_union": "the aggregate before the vote",
    "_tier": "the model of the tier with this density",
    "_clients": "every client's own test samples, mean over clients",
    "_finetuned": "every client's own test samples after fine-tuning, mean over clients",
    "_lowest": "every client's own test samples, lowest tenth of the clients",
    "_highest": "every client's own test samples, highest tenth of the clients",
}


def meaning(name: str, evaluated: Collection[str] = ()) -> str:
    """Return a phrase that says what a metric is, with its unit; nothing for metrics of the user's module in training.

    Args:
        name: a column of metrics.csv or consensus.csv.
        evaluated: see ``group``.

    >>> meaning("mismatch_temporal/fc1"), meaning("val_acc_union", ["val_acc_union"])
    ("layer fc1: mismatch between the server's new mask and its last one, 0 to 1", 'the aggregate before the vote')
    """
    whole, _, layer = name.partition("/")
    if name in evaluated:
        tiered = re.sub(r"_d[0-9.e-]+$", "_tier", name)
        return next(text for end, text in reversed(MODELS.items()) if tiered.endswith(end))
    untiered = re.sub(r"_d[0-9.e-]+$", "", whole)
    text = MEANINGS.get(untiered, "")
    if untiered != whole and text:
        return f"clients of the tier with this density: {text}"
    return f"layer {layer}: {text}" if layer and text else text
