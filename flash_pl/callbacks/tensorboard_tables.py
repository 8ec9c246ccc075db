"""The settings of a run in TensorBoard: the columns of the tab "HParams", and the tables of the tab "Text"."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flash_pl.yaml12 import as_short_line

MAIN = ("data", "density", "lr", "model", "rounds", "scheduler", "seed")
# TensorBoard shows the first five columns, and sorts columns whose values differ between runs before the others.
SHOWN = ("density", "lr", "overrides", "scheduler", "seed")


def given_keys(settings: Mapping[str, Any], given: Collection[str]) -> list[str]:
    """Return the settings that the user has set.

    Args:
        settings: as ``hyperparameters`` returns them.
        given: the dotted keys that the user has set. One that names a component stands for all of its settings.

    >>> settings = {"rounds": 6, "scheduler.decay.class_path": "flash_pl.schedulers.Cosine", "seed": 1}
    >>> given_keys(settings, ["rounds", "scheduler.decay.name"])
    ['rounds', 'scheduler.decay.class_path']
    """
    exact = settings.keys() & set(given)
    components = [key.removesuffix(".name").removesuffix(".class_path") + "." for key in set(given) - exact]
    return [key for key in settings if key in exact or key.startswith(tuple(components))]


def main_settings(settings: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the columns of the tab "HParams": the main settings, those that the user has set, and these in one text.

    >>> settings = {"density": 0.1, "cohort": 5, "scheduler.name": "nst", "scheduler.prune_rate": 0.3, "clients": 9}
    >>> main_settings(settings, ["density", "scheduler.name", "scheduler.prune_rate"])
    {'density': 0.1, 'scheduler': 'nst', 'overrides': 'prune_rate=0.3', 'scheduler.prune_rate': 0.3}
    """
    short = {_short_key(key): _short(value) for key, value in settings.items()}
    columns = {name: short[name] for name in MAIN if name in short}
    others = [key for key in map(_short_key, given_keys(settings, given)) if key not in MAIN]
    others.sort(key=lambda key: _rank(key, short[key]))
    overrides = [f"{key.removeprefix('scheduler.')}={as_short_line(short[key])}" for key in others]
    return columns | {"overrides": " ".join(overrides)} | {key: short[key] for key in others}


def _rank(key: str, value: Any) -> tuple[int, int]:
    """The place of an override: few letters are visible, so parts of the method come first, ways to compute last."""
    section = key.partition(".")[0]
    if section in ("trainer", "wire"):
        return 3, 0
    if section == "scheduler":
        return 0, 0
    is_number = isinstance(value, bool | int | float)
    return (2, 0) if is_number else (1, len(str(value)))


def settings_list(settings: Mapping[str, Any], given: Collection[str]) -> str:
    """Return all settings as a Markdown list with a line for each component; those that the user has set are bold.

    >>> print(settings_list({"data.root": "x", "data.name": "digits", "rounds": 6, "seed": 1}, ["rounds"]))
    Set by the config file or the command line: **bold**
    <BLANKLINE>
    - run: **rounds=6**, seed=1
    - data: digits, root=x
    """
    chosen = set(given_keys(settings, given))
    lines: dict[str, list[str]] = {"run": []}
    for key, value in sorted(settings.items(), key=lambda item: not _is_name(item[0])):
        short, text = _short_key(key), _cell(_short(value))
        section, _, rest = short.partition(".")
        section = section if "." in key else "run"
        text = text if short == section else f"{_cell(rest or short)}={text}"
        lines.setdefault(section, []).append(f"**{text}**" if key in chosen else text)
    items = [f"- {section}: {', '.join(texts)}" for section, texts in lines.items() if texts]
    return "\n".join(["Set by the config file or the command line: **bold**", "", *items])


def layer_table(layers: Sequence[str], sizes: Sequence[int], densities: Sequence[float], coverage: str) -> str:
    """Return the maskable layers with their weights and densities as a Markdown table.

    >>> print(layer_table(["conv", "fc"], [100, 900], [0.5, 0.1], "1,000 of 1,010 weights are maskable"))
    1,000 of 1,010 weights are maskable
    <BLANKLINE>
    | layer | weights | active | density |
    |---|--:|--:|--:|
    | conv | 100 | 50 | 0.5 |
    | fc | 900 | 90 | 0.1 |
    | **all** | **1,000** | **140** | **0.14** |
    """
    active = [round(size * density) for size, density in zip(sizes, densities, strict=True)]
    rows = [
        f"| {_cell(layer)} | {size:,} | {count:,} | {density:.4g} |"
        for layer, size, count, density in zip(layers, sizes, active, densities, strict=True)
    ]
    total = f"| **all** | **{sum(sizes):,}** | **{sum(active):,}** | **{sum(active) / max(1, sum(sizes)):.4g}** |"
    return "\n".join([coverage, "", "| layer | weights | active | density |", "|---|--:|--:|--:|", *rows, total])


def constants_table(values: Mapping[str, float], descriptions: Mapping[str, str]) -> str:
    """Return the metrics that no chart shows, because they have one value in the whole run, as a
    Markdown table.

    >>> print(constants_table({"mask/density": 0.05}, {"mask/density": "active share"}))
    | one value in the whole run | value | |
    |---|--:|---|
    | mask/density | 0.05 | active share |
    """
    rows = [f"| {_cell(tag)} | {value:.6g} | {_cell(descriptions.get(tag, ''))} |" for tag, value in values.items()]
    return "\n".join(["| one value in the whole run | value | |", "|---|--:|---|", *rows])


def experiment(settings: Mapping[str, Any], metrics: Mapping[str, str]) -> tuple[Any, Any]:
    """Return the summaries that the tab "HParams" reads: its columns, and the settings of this run.

    TensorBoard takes the columns of one run for all of them. Therefore every run has the main settings, and the text
    of its overrides.

    Args:
        settings: the columns with the values of this run.
        metrics: the tags of the metrics' scalars with their titles, in the order of the columns.
    """
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # type: ignore[import-untyped]

    kinds = {bool: api_pb2.DATA_TYPE_BOOL, int: api_pb2.DATA_TYPE_FLOAT64, float: api_pb2.DATA_TYPE_FLOAT64}
    start = plugin_data_pb2.SessionStartInfo()
    columns = []
    for name, value in settings.items():
        kind = kinds.get(type(value), api_pb2.DATA_TYPE_STRING)
        columns.append(api_pb2.HParamInfo(name=name, type=kind, differs=name in SHOWN))
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = str(value)
    names = [api_pb2.MetricInfo(name=api_pb2.MetricName(tag=tag), display_name=title) for tag, title in metrics.items()]
    whole = api_pb2.Experiment(hparam_infos=columns, metric_infos=names)

    return (
        _summary(metadata.EXPERIMENT_TAG, experiment=whole),
        _summary(metadata.SESSION_START_INFO_TAG, session_start_info=start),
    )


def finished() -> Any:
    """Return the summary that tells the tab "HParams" that a run is finished."""
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    return _summary(metadata.SESSION_END_INFO_TAG, session_end_info=end)


def _summary(tag: str, **content: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata  # type: ignore[import-untyped]
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    data = plugin_data_pb2.HParamsPluginData(version=metadata.PLUGIN_DATA_VERSION, **content)
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME, content=data.SerializeToString())
    return Summary(value=[Summary.Value(tag=tag, metadata=SummaryMetadata(plugin_data=plugin))])


def _is_name(key: str) -> bool:
    """Whether a key is the name of a component of the top level, which its line begins with."""
    return key.count(".") == 1 and key != _short_key(key)


def _short_key(key: str) -> str:
    """
    >>> _short_key("scheduler.name"), _short_key("data.partition.class_path")
    ('scheduler', 'data.partition')
    """
    return key.removesuffix(".name").removesuffix(".class_path")


def _short(value: Any) -> Any:
    """The value; of a class of flash_pl its name alone."""
    is_ours = isinstance(value, str) and value.startswith("flash_pl.") and value.replace(".", "").isidentifier()
    return value.rpartition(".")[2] if is_ours else value


def _cell(value: Any) -> str:
    """The value as text that Markdown leaves as it is."""
    text = " ".join(as_short_line(value).split())
    return "".join(f"\\{character}" if character in "|*_`<[" else character for character in text)
