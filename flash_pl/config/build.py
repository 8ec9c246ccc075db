"""From a resolved config to the objects of a run."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from flash_pl.callbacks import Callback
from flash_pl.client import Classifier
from flash_pl.config.components import MASK_KEYS
from flash_pl.config.data import Config, facts_of, refuse_unused
from flash_pl.config.instantiate import instantiate
from flash_pl.config.keys import KEYS, options_of
from flash_pl.config.signature import describe, fits, locate, signature
from flash_pl.costs import Fleet, WireFormat
from flash_pl.data import FederatedData
from flash_pl.errors import ConfigError, as_yaml, in_one_line
from flash_pl.loops import EvaluationSchedule, FaultPolicy, RoundDecay
from flash_pl.schedulers import SparseScheduler
from flash_pl.seeding import derive_seed
from flash_pl.server import ClientSampler, FedAvg, RoundAverage, ServerOptimizer
from flash_pl.sparsity import Layout, SparsityBudget
from flash_pl.trainer import FederatedTrainer


def build_module(config: Config, data: FederatedData) -> L.LightningModule:
    """The LightningModule to train: the config's own class, or a ``Classifier`` around the network it names.

    The initial weights depend on the seed and the model alone, so they are the same for all sparse schedulers; torch's
    global generator is left as it was. If the class has arguments for the number of classes and the image size, the
    data set them.
    """
    if not _takes_lr(config):
        refuse_unused(config, ["lr", "lr_end", "lr_horizon"], "model")
    if _is_own_module(config):
        refuse_unused(config, ["optimizer"], "model")
    facts = facts_of(data) | ({"lr": config["lr"]} if _is_own_module(config) else {})
    for key, hint in MASK_KEYS.items():
        if not fits(config["model"][key], hint):
            raise ConfigError(f"model.{key}", f"{as_yaml(config['model'][key])} is not {describe(hint)}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(config["seed"], "weights"))
        model = instantiate("model", _component(config["model"]), nn.Module, fill=facts)
    if isinstance(model, L.LightningModule):
        model.configure_model()  # Lightning's hook to make layers
    try:
        # An error here names layers as the config does.
        Layout(model, **{key: config["model"][key] for key in MASK_KEYS})
    except ConfigError as error:
        raise error.within("model") from error
    if _is_own_module(config):
        return model
    if "classes" not in facts:
        problem = f"{as_yaml(config['model']['class_path'])} is a network, and the data have no number of `classes`"
        remedy = "give a LightningModule, or data with an attribute classes (num_classes in a LightningDataModule)"
        raise ConfigError("model", problem, remedy)
    return Classifier(model, facts["classes"], lr=config["lr"], optimizer=config["optimizer"])


def network_prefix(config: Config) -> str:
    """The beginning of the names that the config's own network has in the module of ``build_module``."""
    return "" if _is_own_module(config) else "model."


def build_callbacks(config: Config) -> list[Callback]:
    """The user's own callbacks."""
    nodes = enumerate(config["callbacks"])
    return [instantiate(f"callbacks[{index}]", node, Callback) for index, node in nodes]


def build_trainer(config: Config, callbacks: Sequence[Any] = (), logger: Any = ()) -> FederatedTrainer:
    """The trainer of the config's sparse scheduler.

    Args:
        callbacks: joined by the user's own, which the config names.

    Raises:
        ConfigError: a component of the wrong kind, impossible tiers, a device that this machine lacks.
    """
    with by_config_key():
        return _trainer(config, [*callbacks, *build_callbacks(config)], logger)


@contextmanager
def by_config_key() -> Iterator[None]:
    """Errors of a ``FederatedTrainer`` name the keys of the config: ``trainer.backend`` instead of ``backend``."""
    try:
        yield
    except ConfigError as error:
        raise (error.within("trainer") if f"trainer.{error.key}" in KEYS else error) from error


def _trainer(config: Config, callbacks: Sequence[Any], logger: Any) -> FederatedTrainer:
    options = config["trainer"]
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    scheduler = instantiate("scheduler", config["scheduler"], SparseScheduler)
    sampler = instantiate("sampler", config["sampler"], ClientSampler)
    budget = instantiate("budget", config["budget"], SparsityBudget)
    kinds = {"aggregator": FedAvg, "server_optimizer": ServerOptimizer, "round_average": RoundAverage, "fleet": Fleet}
    optional = {key: instantiate(key, config[key], kind) for key, kind in kinds.items() if config[key] is not None}
    try:
        return FederatedTrainer(
            scheduler,
            density=config["density"],
            density_of=config["density_of"],
            rounds=config["rounds"],
            cohort=config["cohort"],
            local_epochs=config["local_epochs"],
            seed=config["seed"],
            budget=budget,
            sampler=sampler,
            decay=_decay(config),
            include=[network_prefix(config) + pattern for pattern in config["model"]["include"]],
            exclude=[network_prefix(config) + pattern for pattern in config["model"]["exclude"]],
            exclude_first_last=config["model"]["exclude_first_last"],
            evaluate=EvaluationSchedule(**_options(EvaluationSchedule, options)),
            faults=FaultPolicy(**_options(FaultPolicy, options)),
            wire=_wire(config),
            callbacks=callbacks,
            logger=logger,
            enable_progress_bar=options["progress"],
            **_options(FederatedTrainer, options),
            **optional,
        )
    except ConfigError:
        raise
    except (MisconfigurationException, RuntimeError, ValueError) as error:  # of Lightning
        reason = in_one_line(error)
        machine = f"{as_yaml(options['accelerator'])} with devices={as_yaml(options['devices'])}"
        raise ConfigError("trainer.accelerator", f"this machine cannot run {machine} ({reason})") from error


def _options(target: type, section: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of ``target`` among the values of a section."""
    return {name: section[name] for name in options_of(f"{target.__module__}.{target.__qualname__}")}


def _wire(config: Config) -> WireFormat:
    try:
        return WireFormat(**config["wire"])
    except ConfigError as error:
        raise error.within("wire") from error


def _component(model: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in model.items() if key not in MASK_KEYS}


def _is_own_module(config: Config) -> bool:
    """Whether the config names a LightningModule, which is trained as it is, and not a network."""
    target = locate("model.class_path", config["model"]["class_path"])
    return isinstance(target, type) and issubclass(target, L.LightningModule)


def _takes_lr(config: Config) -> bool:
    """Whether the config sets the learning rate; a LightningModule without an argument ``lr`` keeps its own rates."""
    target = locate("model.class_path", config["model"]["class_path"])
    return not _is_own_module(config) or "lr" in signature(target).parameters


def _decay(config: Config) -> RoundDecay | None:
    """The decay of ``lr``; None for a LightningModule that keeps its own rates."""
    if not _takes_lr(config):
        return None
    ratio = min(1.0, config["lr_end"] / config["lr"])  # a rate that starts lower must not rise
    return RoundDecay(ratio, config["lr_horizon"], config["trainer"]["lr_delay"])
