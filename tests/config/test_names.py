"""Names of earlier versions, each with the name that is used now."""

from flash_pl.config.keys import KEYS
from flash_pl.config.names import RENAMED_CLASSES, RENAMED_FRAGMENTS, RENAMED_INIT_ARGS, RENAMED_KEYS
from flash_pl.config.shipped import folders, names
from flash_pl.config.signature import locate


def test_the_new_names_exist_and_the_old_ones_do_not():
    assert RENAMED_KEYS.keys().isdisjoint(KEYS) and set(RENAMED_KEYS.values()) <= set(KEYS)
    assert set(RENAMED_INIT_ARGS.values()) <= set(folders()) and RENAMED_INIT_ARGS.keys().isdisjoint(folders())
    for folder, renamed in RENAMED_FRAGMENTS.items():
        assert set(renamed.values()) <= set(names(folder)) and renamed.keys().isdisjoint(names(folder))
    for new in RENAMED_CLASSES.values():
        assert locate("class_path", new)
