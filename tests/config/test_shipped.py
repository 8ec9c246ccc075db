"""The shipped YAML files, and arguments of the command line."""

from pathlib import Path

import pytest

from flash_pl.config import RunDir, compose, read_config
from flash_pl.config.shipped import as_argument, description, folders, fragment, names, read_dotlist
from flash_pl.config.signature import locate, signature


def composed(*arguments, config="jmwst"):
    return compose(read_config(config), arguments)


@pytest.mark.parametrize("folder", folders())
def test_every_fragment_has_a_description_and_an_importable_class(folder):
    for name in names(folder):
        assert description(name, folder)
        content = fragment(folder, name, folder)
        if folder != "compat":
            parameters = signature(locate(folder, content["class_path"])).parameters
            assert set(content.get("init_args", {})) <= set(parameters)


def test_a_value_may_contain_a_hash_after_a_space(tmp_path):
    assert read_dotlist(["run_dir=runs/a #1", "data.root=/x #2", "seed=3"]) == {
        "run_dir": "runs/a #1",
        "data": {"root": "/x #2"},
        "seed": 3,
    }
    assert read_dotlist(["run_dir=007", "ckpt_path=null"]) == {"run_dir": "007", "ckpt_path": None}
    for path in ("runs/b #1", "runs/{x}", "7", "on", 'a "b"/c', "plain/one"):
        config = composed(f"run_dir={as_argument(Path(path))}")
        assert RunDir(config).path == Path(path)
