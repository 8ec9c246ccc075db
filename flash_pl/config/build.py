"""From a resolved config to the objects of a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from flash_pl.client import Classifier
from flash_pl.config.components import instantiate
from flash_pl.config.schema import KEYS
from flash_pl.config.signature import describe, fits, locate, signature
from flash_pl.costs import Fleet, WireFormat
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError
from flash_pl.loops import EvaluationSchedule, FaultPolicy, RoundDecay
from flash_pl.ranks import Ranks
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed
from flash_pl.server import ClientSampler, FedAvg, RoundAverage, ServerOptimizer
from flash_pl.sparsity import Layout, SparsityBudget
from flash_pl.trainer import FederatedTrainer

Config = Mapping[str, Any]


def build_data(config: Config) -> FederatedData:
    """The data module; nothing is loaded yet."""
    short = {key: config[key] for key in ("clients", "batch_size", "seed")}
    target = locate("data.class_path", config["data"]["class_path"])
    _refuse_unused(config, [key for key in ("clients", "batch_size") if not signature(target).accepts(key)], "data")
    return instantiate("data", config["data"], FederatedData, fill=short)


def prepare(data: FederatedData, ranks: Ranks) -> None:
    """Fetch the data, in one process, and load them.

    Raises:
        ConfigError: by its key in the config, what the data cannot do.
        DataNotFoundError: they are nowhere.
    """
    try:
        ranks.broadcast(data.prepare_data)
        data.setup("fit")
    except ConfigError as error:
        raise (error if error.key in KEYS else error.within("data")) from error


def build_module(config: Config, data: FederatedData) -> L.LightningModule:
    """The LightningModule to train: the config's own class, or a ``Classifier`` around the network it names.

    The initial weights depend on the seed and the model alone, so all sparse methods start from the same ones; torch's
    global generator is left as it was. Number of classes and image size come from the data, where the class asks for
    them.
    """
    if not _takes_lr(config):
        _refuse_unused(config, ["lr", "lr_end", "lr_horizon"], "model")
    known = _known_of(data) | ({"lr": config["lr"]} if _is_own_module(config) else {})
    exclude, first_last = config["model"]["exclude"], config["model"]["exclude_first_last"]
    for key, hint in {"exclude": list[str], "exclude_first_last": bool}.items():
        if not fits(config["model"][key], hint):
            raise ConfigError(f"model.{key}", config["model"][key], describe(hint))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config["seed"], "weights"))
        model = instantiate("model", _component(config["model"]), nn.Module, fill=known)
    if isinstance(model, L.LightningModule):
        model.configure_model()  # it may make its layers there
    try:
        Layout(model, exclude, first_last)  # complains now, and in the names that the config knows
    except ConfigError as error:
        raise error.within("model") from error
    if _is_own_module(config):
        return model
    if "classes" not in known:
        raise ConfigError("model", config["model"]["class_path"], "a LightningModule, since the data have no `classes`")
    return Classifier(model, known["classes"], lr=config["lr"])


def network_prefix(config: Config) -> str:
    """What the names of the config's own network begin with in the module that is trained: see ``build_module``."""
    return "" if _is_own_module(config) else "model."


def build_budget(config: Config) -> SparsityBudget:
    """What the clients can afford."""
    return instantiate("budget", config["budget"], SparsityBudget)


def build_trainer(config: Config, callbacks: Sequence[Any] = (), logger: Any = ()) -> FederatedTrainer:
    """The trainer of the config's method.

    Raises:
        ConfigError: a component of the wrong kind, impossible tiers, a device that this machine lacks.
    """
    with by_config_key():
        return _trainer(config, callbacks, logger)


@contextmanager
def by_config_key() -> Iterator[None]:
    """What a ``FederatedTrainer`` refuses is named as the config names it: ``trainer.backend``, not ``backend``."""
    try:
        yield
    except ConfigError as error:
        raise (error.within("trainer") if f"trainer.{error.key}" in KEYS else error) from error


def _trainer(config: Config, callbacks: Sequence[Any], logger: Any) -> FederatedTrainer:
    keys = config["trainer"]
    if keys["threads"] is not None:
        torch.set_num_threads(keys["threads"])
    scheduler = instantiate("scheduler", config["scheduler"], SparseScheduler)
    sampler = instantiate("sampler", config["sampler"], ClientSampler)
    budget = build_budget(config)
    kinds = {"aggregator": FedAvg, "server_optimizer": ServerOptimizer, "round_average": RoundAverage, "fleet": Fleet}
    optional = {key: instantiate(key, config[key], kind) for key, kind in kinds.items() if config[key] is not None}
    try:
        return FederatedTrainer(
            scheduler,
            density=config["density"],
            rounds=config["rounds"],
            cohort=config["cohort"],
            local_epochs=config["local_epochs"],
            seed=config["seed"],
            budget=budget,
            sampler=sampler,
            decay=_decay(config),
            exclude=_exclude(config),
            exclude_first_last=config["model"]["exclude_first_last"],
            evaluate=EvaluationSchedule(
                keys["eval_every"], keys["eval_last"], keys["eval_clients_every"], keys["finetune_epochs"]
            ),
            gradient_clip_val=keys["gradient_clip_val"],
            gradient_clip_algorithm=keys["gradient_clip_algorithm"],
            channels_last=keys["channels_last"],
            backend=keys["backend"],
            compile=keys["compile"],
            accelerator=keys["accelerator"],
            devices=keys["devices"],
            num_nodes=keys["num_nodes"],
            precision=keys["precision"],
            deterministic=keys["deterministic"],
            timeout=keys["timeout"],
            wire=WireFormat(**config["wire"]),
            faults=FaultPolicy(keys["on_client_error"], keys["min_clients"], keys["round_attempts"]),
            callbacks=callbacks,
            logger=logger,
            **optional,
        )
    except (MisconfigurationException, RuntimeError) as error:
        reason = " ".join(str(error).split())
        wanted = f"{keys['devices']} x {keys['accelerator']}"
        raise ConfigError("trainer.accelerator", wanted, f"what this machine has ({reason})") from error


def _component(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model.items() if key not in ("exclude", "exclude_first_last")}


def _known_of(data: FederatedData) -> dict[str, Any]:
    """What a model may want to know of the data."""
    known: dict[str, Any] = {}
    if (classes := getattr(data, "classes", None)) is not None:
        known |= {"num_classes": classes, "classes": classes}
    if (shape := getattr(data, "shape", None)) is not None:
        known |= {"in_channels": shape[0], "image_size": shape[-1]}
    return known


def _is_own_module(config: Config) -> bool:
    """Whether the config names a LightningModule, which is federated as it is, and not a network."""
    target = locate("model.class_path", config["model"]["class_path"])
    return isinstance(target, type) and issubclass(target, L.LightningModule)


def _takes_lr(config: Config) -> bool:
    """Whether the learning rate is the config's; a LightningModule without such an argument keeps its own rates."""
    target = locate("model.class_path", config["model"]["class_path"])
    return not _is_own_module(config) or "lr" in signature(target).parameters


def _refuse_unused(config: Config, keys: Sequence[str], section: str) -> None:
    """Refuse values of ``keys`` that would do nothing, since the class of ``section`` has no argument for them."""
    for key in keys:
        default = KEYS[key].default
        if config[key] not in (default, None):
            argument = "lr" if key.startswith("lr") else key
            why = f"{config[section]['class_path']} takes no argument {argument}"
            raise ConfigError(key, config[key], f"the default, {default}: {why}")


def _exclude(config: Config) -> list[str]:
    """The layers that are never masked, by their names in the module that is trained."""
    return [network_prefix(config) + pattern for pattern in config["model"]["exclude"]]


def _decay(config: Config) -> RoundDecay | None:
    """The decay of ``lr``; a LightningModule that does not take it keeps its own rates."""
    if not _takes_lr(config):
        return None
    return RoundDecay(config["lr_end"] / config["lr"], config["lr_horizon"], config["trainer"]["lr_delay"])
