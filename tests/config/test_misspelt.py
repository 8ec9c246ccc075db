"""Misspelt names inside of components are found in source, with the error that the imported classes give."""

import pytest

from flash_pl.config import compose, shipped
from flash_pl.config.components import expand
from flash_pl.config.data import build_data
from flash_pl.config.init_args import closed_init_args
from flash_pl.config.instantiate import instantiate
from flash_pl.config.misspelt import check_components
from flash_pl.config.signature import fits, locate, signature
from flash_pl.errors import ConfigError

TYPING = [
    (["scheduler.prune_rat=0.1"], "scheduler.prune_rat", "prune_rate"),
    (["scheduler.init_args.prune_rat=0.1"], "scheduler.prune_rat", "prune_rate"),
    (["scheduler.voter=magnitud"], "scheduler.voter", "magnitude"),
    (["scheduler.voter=average"], "scheduler.voter", "magnitude"),
    (["scheduler.sensitivity.move.growth=rndom"], "scheduler.sensitivity.move.growth", "random"),
    (["scheduler.move.grwth=random"], "scheduler.move.grwth", "growth"),
    (["scheduler=flash_pl.schedulers.JMWTS"], "scheduler.class_path", "JMWST"),
    (["scheduler.voter=flash_pl.server.MagnitudVote"], "scheduler.voter.class_path", "MagnitudeVote"),
    (["scheduler.prune_rate=x"], "scheduler.prune_rate", ""),
    (["scheduler.prune_rate=[1]"], "scheduler.prune_rate", ""),
    (["scheduler.prune_rate=2"], "scheduler.prune_rate", ""),
    (["scheduler.interval.rounds=0"], "scheduler.interval.rounds", ""),
    (["data.sampels=5"], "data.sampels", ""),
    (["data.partition.alpa=1"], "data.partition.alpa", "alpha"),
    (["model.exlude=[fc1]"], "model.exlude", "exclude"),
    (["callbacks=[{class_path: flash_pl.callbacks.EarlyStopping, patienc: 3}]"], "callbacks[0].patienc", "patience"),
    (["logger=[csv, {class_path: flash_pl.callbacks.Nothing}]"], "logger[1].class_path", ""),
]


@pytest.mark.parametrize(("arguments", "key", "hint"), TYPING)
def test_a_typing_error_is_one_of_the_key(arguments, key, hint):
    with pytest.raises(ConfigError) as caught:
        compose({"scheduler": "jmwst"}, arguments)
    assert caught.value.key == key and hint in caught.value.hint


@pytest.mark.parametrize("folder", ["voter", "move", "interval", "sampler", "decay"])
@pytest.mark.parametrize("change", [{"no_such": 1}, {"class_path": "flash_pl.server.Nothing"}, {"draw": "no_such"}])
def test_what_is_refused_in_source_is_refused_by_the_classes(folder, change):
    for name in shipped.names(folder):
        node = expand({"name": name} | ({} if "class_path" in change else change), "sampler", folder)
        node = {key: value for key, value in node.items() if key != "name"} | (change if "class_path" in change else {})
        with pytest.raises(ConfigError) as in_source:
            check_components({"sampler": node})
        kind = locate("sampler", shipped.content(name, folder)["class_path"])
        with pytest.raises(ConfigError) as imported:
            instantiate("sampler", node, kind)
        assert in_source.value.key == imported.value.key


def test_a_value_out_of_range_gives_the_error_of_the_class():
    found = set()
    for folder in shipped.folders():
        for name in shipped.names(folder):
            node = expand({"name": name}, "sampler", folder)
            known = closed_init_args(node.get("class_path", "")) or {}
            takes = signature(locate("key", node["class_path"])).parameters if known else {}
            plain = {key: value for key, value in node.get("init_args", {}).items() if "${" not in str(value)}
            required = {key: 8 if fits(8, one.hint) else "x" for key, one in takes.items() if one.required}
            for key in known:
                if known[key].range is None or not fits(-7, takes[key].hint):
                    continue
                wrong = {"class_path": node["class_path"], "init_args": required | plain | {key: -7}}
                with pytest.raises(ConfigError) as in_source:
                    check_components({"sampler": wrong})
                with pytest.raises(ConfigError) as imported:
                    instantiate("sampler", wrong, locate("key", node["class_path"]))
                assert str(in_source.value) == str(imported.value)
                found.add(key)
    assert {"prune_rate", "alpha", "rounds", "min_samples", "validation"} <= found


@pytest.mark.parametrize("folder", shipped.folders())
def test_shipped_classes_name_all_their_arguments_in_source(folder):
    for name in shipped.names(folder):
        class_path = shipped.content(name, folder).get("class_path", "")
        if class_path.startswith("flash_pl."):
            takes = signature(locate("key", class_path))
            assert closed_init_args(class_path).keys() == takes.parameters.keys() and not takes.open


def test_classes_of_others_are_left_to_their_import(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    check_components({"scheduler": {"class_path": "mine.Vote", "init_args": {"anything": 1, "voter": "magnitud"}}})
    assert closed_init_args("mine.Vote") is None and closed_init_args("flash_pl.server._private.Vote") is None
    assert closed_init_args("flash_pl.../x.Vote") is None and closed_init_args("flash_pl./tmp/x.Vote") is None


def test_a_dataset_may_have_arguments_of_the_division(tmp_path, monkeypatch):
    """They are arguments of PartitionedDataset, which divides the samples of any class."""
    code = "class Points:\n    def __init__(self, n: int = 30):\n        self.n = n\n"
    code += "    def __len__(self):\n        return self.n\n"
    code += "    def __getitem__(self, index):\n        return [1.0], index % 3\n"
    (tmp_path / "points.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["data=points.Points", "data.n=40", "data.validation=0.2", "model=mlp", "clients=4", "cohort=2"]
    assert build_data(compose({"scheduler": "pdst"}, arguments))
