"""Configuration: YAML and command line to a resolved config, a resolved config to objects. Reading needs no torch."""

from typing import TYPE_CHECKING

from flash_pl.lazy import names_on_demand

if TYPE_CHECKING:
    from flash_pl.config.build import build_callbacks, build_module, build_trainer, by_config_key, network_prefix
    from flash_pl.config.composition import about_cohort, compose, label, names_of, to_repeat
    from flash_pl.config.data import build_data, prepare
    from flash_pl.config.lock import DirectoryLock, holder_of
    from flash_pl.config.loggers import build_loggers, check_loggers
    from flash_pl.config.references import resolve_plain
    from flash_pl.config.resume import arguments_to_go_on, experiment, refuse_other, saved_config
    from flash_pl.config.run_dir import RunDir
    from flash_pl.config.shipped import read_config, read_dotlist
    from flash_pl.config.trust import foreign_names, own_names
else:
    __getattr__, __dir__ = names_on_demand(__name__)

__all__ = [
    "DirectoryLock",
    "RunDir",
    "arguments_to_go_on",
    "about_cohort",
    "build_callbacks",
    "build_data",
    "build_loggers",
    "build_module",
    "build_trainer",
    "by_config_key",
    "check_loggers",
    "compose",
    "experiment",
    "foreign_names",
    "holder_of",
    "label",
    "names_of",
    "network_prefix",
    "own_names",
    "prepare",
    "read_config",
    "read_dotlist",
    "refuse_other",
    "resolve_plain",
    "saved_config",
    "to_repeat",
]
