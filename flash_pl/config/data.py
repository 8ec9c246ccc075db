"""From the config to the data of a run: a class of federated data, a LightningDataModule or a Dataset of the user."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from torch.utils.data import Dataset

from flash_pl.config.instantiate import instantiate
from flash_pl.config.keys import KEYS
from flash_pl.config.names import unknown_key
from flash_pl.config.shipped import fragment
from flash_pl.config.signature import Signature, check_kind, conforms, locate, signature
from flash_pl.data import FederatedData, MapDataset, PartitionedDataModule, PartitionedDataset
from flash_pl.errors import ConfigError, as_yaml
from flash_pl.ranks import Ranks

Config = Mapping[str, Any]
FILLED = ("clients", "batch_size", "seed")  # keys of the top level that the data take
# What a class or function of the user may make: one object, or one dataset for training and one for testing.
OneSet = Dataset[Any] | MapDataset
Made = FederatedData | L.LightningDataModule | OneSet | tuple[OneSet, ...] | list[OneSet]


def build_data(config: Config) -> FederatedData:
    """The data of a run; nothing is loaded yet.

    A class or function that makes a Dataset or a LightningDataModule gets the init args that it takes; all others go to
    ``PartitionedDataset`` or ``PartitionedDataModule``, which divides it over clients. A Dataset with an argument
    ``train``, as torchvision's have, is made for training and for testing; one with ``split`` is made for the splits
    train and test. A function may return both datasets; its return annotation says what it returns.
    """
    node, fill = config["data"], {key: config[key] for key in FILLED}
    class_path = node["class_path"]
    target = locate("data.class_path", class_path)
    if isinstance(target, type) and conforms(target, FederatedData):
        refuse_unused(config, [key for key in ("clients", "batch_size") if not signature(target).accepts(key)], "data")
        return instantiate("data", node, FederatedData, fill=fill)
    check_kind("data", class_path, target, Made, "Dataset, LightningDataModule or FederatedData")
    takes, divides = signature(target), signature(PartitionedDataset)
    init_args = node.get("init_args", {})
    dividing = {name for name in init_args if name in divides.parameters and name not in takes.parameters}
    own = {name: value for name, value in init_args.items() if name not in dividing}
    if unknown := [name for name in own if not takes.accepts(name)]:
        raise unknown_key(f"data.{unknown[0]}", sorted({*takes.parameters, *divides.parameters} - {"dataset", "test"}))
    made = _make(class_path, own, takes, fill)
    if conforms(type(made[0]), FederatedData) and not dividing:
        refuse_unused(config, [key for key in ("clients", "batch_size") if not takes.accepts(key)], "data")
        return made[0]
    return _divided(class_path, made, {name: init_args[name] for name in dividing}, fill)


def _make(class_path: str, init_args: Config, takes: Signature, fill: dict[str, Any]) -> Sequence[Any]:
    """What the user's class or function makes: one object, or one for training and one for testing."""

    def make(**more: Any) -> Any:
        node = {"class_path": class_path, "init_args": {**init_args, **more}}
        return instantiate("data", node, Made, fill=fill)

    for name, kind, values in (("train", bool, (True, False)), ("split", str, ("train", "test"))):
        parameter = None if name in init_args else takes.parameters.get(name)
        if parameter is not None and parameter.hint in (kind, Any) and isinstance(parameter.default, kind | None):
            made = make(**{name: values[0]})
            return [made] if isinstance(made, L.LightningDataModule) else [made, make(**{name: values[1]})]
    made = make()
    pair = isinstance(made, tuple | list) and len(made) == 2 and all(hasattr(part, "__getitem__") for part in made)
    return made if pair else [made]


def _divided(class_path: str, made: Sequence[Any], init_args: Config, fill: dict[str, Any]) -> FederatedData:
    arguments = dict(init_args)
    if isinstance(arguments.get("collate_fn"), str):  # a function, which is not called here
        fill = fill | {"collate_fn": locate("data.collate_fn", arguments.pop("collate_fn"))}
    if isinstance(made[0], L.LightningDataModule):
        kind: type = PartitionedDataModule
        fill = fill | {"datamodule": made[0]}
    else:
        kind = PartitionedDataset
        fill = fill | dict(zip(("dataset", "test"), made, strict=False))
    node = {"class_path": f"{kind.__module__}.{kind.__name__}", "init_args": arguments}
    return instantiate("data", node, FederatedData, fill=fill)


def prepare(data: FederatedData, ranks: Ranks) -> None:
    """Fetch the data in one process, and load them in all.

    Raises:
        ConfigError: a setting that does not fit the data, by its key in the config.
        DataNotFoundError: the data are in none of the folders searched.
    """
    try:
        ranks.broadcast(data.prepare_data)
        data.setup("fit")
    except ConfigError as error:
        raise (error if error.key in KEYS else error.within("data")) from error


def facts_of(data: FederatedData) -> dict[str, Any]:
    """The facts about the data that a model may take as arguments."""
    facts: dict[str, Any] = {}
    try:
        classes = getattr(data, "classes", None)
        shape: tuple[int, ...] = getattr(data, "shape", None) or ()
    except ConfigError as error:  # data that read their files for that
        raise error.within("data") from error
    if classes is not None:
        facts |= {"num_classes": classes, "classes": classes}
    if len(shape) == 1:
        facts |= {"in_features": shape[0], "context_length": shape[0]}
    elif shape:
        facts |= {"in_channels": shape[0], "image_size": shape[-1]}
    return facts


def refuse_unused(config: Config, keys: Sequence[str], section: str) -> None:
    """Refuse values of ``keys`` that would have no effect, since the class of ``section`` has no argument for them.

    Values that nobody has asked for, the defaults of the keys and of the data set, are not refused.
    """
    of_data = fragment("data", config["data"]["name"], "data").get("defaults", {}) if "name" in config["data"] else {}
    for key in keys:
        if config[key] not in (KEYS[key].default, of_data.get(key), None):
            argument = "lr" if key.startswith("lr") else key
            reason = f"{config[section]['class_path']} takes no argument {argument}"
            raise ConfigError(key, f"{as_yaml(config[key])} would have no effect: {reason}", "leave it out")
