"""Which keys of a config are the experiment: a run that is resumed must not change them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flash_pl.config.composition import compose
from flash_pl.errors import ConfigError, as_yaml

# A resumed run may change these keys, and all keys below them. They set the length of the run, the machine, the
# evaluation and the paths: the rounds that were trained before stay valid. Every other key is part of the experiment; a
# new option of the trainer is, too, until it is listed here.
FREE = {
    "rounds",
    "run_dir",
    "ckpt_path",
    "callbacks",
    "logger",
    "given",  # repeats other keys
    "wire.verify",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.processes_per_device",
    "trainer.num_nodes",
    "trainer.strategy",
    "trainer.threads",
    "trainer.deterministic",
    "trainer.graphs",
    "trainer.timeout",
    "trainer.strict",
    "trainer.eval_every",
    "trainer.eval_last",
    "trainer.eval_clients_every",
    "trainer.finetune_epochs",
    "trainer.checkpoint_every",
    "trainer.enable_model_summary",
    "trainer.monitor",
    "trainer.monitor_mode",
    "trainer.patience",
    "trainer.progress",
    "trainer.on_client_error",
    "trainer.min_clients",
    "trainer.round_attempts",
}


def experiment(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The dotted keys and values of a resolved config that make the experiment.

    A component is its class and init args; the name of its fragment is left out.
    """
    # The root of our data sets is only a folder; in a user's class it may mean anything.
    is_ours = str(config["data"].get("class_path")).startswith("flash_pl.")
    free = FREE | ({"data.init_args.root"} if is_ours else set())
    yield from _leaves(config, free)


def _leaves(node: Any, free: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(node, dict):
        yield prefix, node
        return
    for name, value in node.items():
        key = f"{prefix}.{name}".lstrip(".")
        if key not in free and (name != "name" or "class_path" not in node):
            yield from _leaves(value, free, key)


def arguments_to_go_on(config: Mapping[str, Any], rounds: int) -> list[str]:
    """The arguments with which a run goes on until round ``rounds``.

    A value that follows ``${rounds}``, such as the length of a decay, is part of the experiment and must stay.

    Args:
        config: as the run's ``config.yaml`` has it, with its references.
        rounds: the new number of rounds.

    >>> arguments_to_go_on({"scheduler": "rigl", "data": "digits", "rounds": 40}, rounds=80)
    ['rounds=80', 'scheduler.init_args.decay.init_args.rounds=30.0']
    """
    arguments = [f"rounds={rounds}"]
    now, then = (dict(experiment(compose(config, given))) for given in ([], arguments))
    return arguments + [f"{key}={as_yaml(value)}" for key, value in now.items() if then.get(key) != value]


def saved_config(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The config in the content of the checkpoint at ``path``, to be composed.

    Raises:
        ConfigError: the checkpoint was written by a trainer without a config.
    """
    saved = state["flash_pl"]["extra"].get("config")
    if saved is None:
        problem = f"{as_yaml(str(path))} is a checkpoint without a config"
        raise ConfigError("ckpt_path", problem, "give a checkpoint that flash-pl fit wrote")
    return saved


def refuse_other(config: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Check that a run with ``config`` can resume from a checkpoint with the config ``saved``; both are resolved.

    Raises:
        ConfigError: it is another experiment; the error names every key that differs.
    """
    here, there = dict(experiment(config)), dict(experiment(saved))
    differing = [key for key in (here | there) if here.get(key) != there.get(key)]
    if differing:
        values = ", ".join(as_yaml(here.get(key)) for key in differing)
        saved_values = ", ".join(f"{key}={as_yaml(there.get(key))}" for key in differing)
        verb = "differs" if len(differing) == 1 else "differ"
        problem = f"{values} {verb} from the checkpoint, which has {saved_values}"
        hint = "a resumed run must be the same experiment; without ckpt_path a new run begins"
        raise ConfigError(", ".join(differing), problem, hint)
