"""``flash-pl help``, ``flash-pl configs`` and near misses of commands."""

import re
import shlex

import pytest

from flash_pl.cli import main
from flash_pl.commands.configs import options_of
from flash_pl.config import compose, read_config, shipped
from flash_pl.config.explained import all_keys, explain
from flash_pl.config.given import SECTIONS as COMPONENTS
from flash_pl.config.keys import KEYS
from flash_pl.yaml12 import load


def printed(capsys, *arguments):
    try:
        code = main(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code, out, err


def test_every_key_is_explained(capsys):
    keys = list(all_keys())
    assert set(KEYS) < set(keys) and "scheduler.sensitivity.move.growth" in keys
    for key in keys:
        explanation = explain(key)
        assert explanation.meanings and all(meaning.kind for meaning in explanation.meanings), key
        assert main(["help", key]) == 0
        assert capsys.readouterr().out.startswith(f"{key}: "), key


def test_the_default_of_each_fragment_is_that_of_the_composed_config():
    for name in shipped.names("scheduler"):
        init_args = compose({"scheduler": name})["scheduler"]["init_args"]
        for option, value in init_args.items():
            if isinstance(value, int | float | str):
                (default,) = (
                    text
                    for meaning in explain(f"scheduler.{option}").meanings
                    for text, names in meaning.defaults.items()
                    if name in names
                )
                assert load(default) == value and options_of(name, "scheduler")[option] == default


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("scheduler.prune_rate", ["a number in (0, 1]", "0.25 in jmwst, nst; 0.3 in rigl, set", "STEAD"]),
        ("density", ["a number in (0, 1]", "default  0.05", "flash-pl fit CONFIG density=VALUE"]),
        ("trainer.eval_every", ["an integer of at least 1"]),
        ("data.partition", ["label_shards", "data.partition.alpha", "null in"]),
        ("density=0.3", ["default  0.05"]),
        ("scheduler.init_args.prune_rate", ["0.25"]),
        ("wire", ["wire.values"]),
    ],
)
def test_what_is_said_of_a_key(key, words, capsys):
    code, out, err = printed(capsys, "help", key)
    assert code == 0 and not err and all(word in " ".join(out.split()) for word in [" ".join(w.split()) for w in words])


def test_several_keys_and_commands_are_explained_one_after_the_other(capsys):
    code, out, _ = printed(capsys, "help", "--lr", "seed", "validate", "fit")
    assert code == 0 and out.startswith("lr: ") and out.index("\nseed: ") < out.index("usage: flash-pl validate")
    assert out.index("usage: flash-pl validate") < out.index("usage: flash-pl fit") and "server_optimizer.lr" in out


def test_keys_below_a_component_are_listed_with_each_meaning_and_who_has_it():
    below = explain("scheduler").below
    assert len(below["prune_rate"]) > 2 and list(below["power"].values()) == [["stead"]]
    for name, texts in below.items():
        holders = [one for names in texts.values() for one in names]
        known = [one for meaning in explain(f"scheduler.{name}").meanings for one in sum(meaning.defaults.values(), [])]
        assert sorted(holders) == sorted(known)


def test_no_explanation_sends_the_reader_to_a_class():
    for key in all_keys():
        for meaning in explain(key).meanings:
            assert not re.search(r"\b[Ss]ee [\w`]|^as in", meaning.help), key


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("denisty", "density"),
        ("prune_rate", "scheduler.prune_rate"),
        ("scheduler.prune_rat", "scheduler.prune_rate"),
        ("scheduler.voter.rescal", "scheduler.voter.rescale"),
        ("trainer.eval_evry", "trainer.eval_every"),
        ("method", "scheduler"),
        ("density.x", ""),
        ("scheduler.prune_rate.x", ""),
        ("", ""),
        ("LR", "lr"),
        ("jmwst", "flash-pl configs jmwst"),
    ],
)
def test_an_unknown_key_is_one_line_with_the_nearest_one(key, hint, capsys):
    code, out, err = printed(capsys, "help", key)
    assert (code, out, err.count("\n")) == (2, "", 1) and hint in err


def test_help_alone_and_of_a_command(capsys):
    assert printed(capsys, "help") == printed(capsys, "--help")
    assert printed(capsys, "help", "fit") == printed(capsys, "fit", "--help")


@pytest.mark.parametrize(("word", "hint"), [("fti", "fit"), ("jmwst", "flash-pl fit jmwst"), ("confgs", "configs")])
def test_a_command_that_does_not_exist_is_one_line_with_the_nearest_one(word, hint, capsys):
    code, out, err = printed(capsys, word, "jmwst")
    assert (code, out, err.count("\n")) == (2, "", 1) and f"did you mean {hint}?" in err and "_complete" not in err


def test_a_shipped_config_is_shown_with_its_comments_and_can_be_used(capsys, tmp_path):
    for name in shipped.names():
        code, out, _ = printed(capsys, "configs", name)
        path, _, content = out.partition("\n")
        assert code == 0 and content.startswith((shipped.SHIPPED / f"{name}.yaml").read_text().rstrip())
        assert path == f"# {shipped.SHIPPED / name}.yaml"
        (tmp_path / "mine.yaml").write_text(out)
        assert read_config(str(tmp_path / "mine.yaml")) == read_config(name)


def test_a_section_is_listed_with_options_in_singular_and_plural(capsys):
    for section in shipped.folders():
        code, out, _ = printed(capsys, "configs", section)
        assert code == 0 and all(f"\n  {name} " in out for name in shipped.names(section))
        plural = f"{section.removesuffix('y')}ies" if section.endswith("y") else f"{section}s"
        assert printed(capsys, "configs", plural) == (0, out, "")
    assert "prune_rate=0.25" in printed(capsys, "configs", "schedulers")[1]


def test_fragments_are_shown_and_near_misses_too(capsys):
    assert printed(capsys, "configs", "digits") == printed(capsys, "configs", "data/digits")
    for wrong, hint in (("jmwts", "jmwst"), ("schedulrs", "scheduler"), ("data/digit", "data/digits")):
        code, out, err = printed(capsys, "configs", wrong)
        assert (code, out, err.count("\n")) == (2, "", 1) and hint in err
    assert set(COMPONENTS) <= set(shipped.folders())


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_the_terminal_and_words_stay_whole(monkeypatch, capsys, width):
    commands = ["--help", "help scheduler", "help density", "help density fit", "configs", "configs schedulers"]
    commands += [f"{name} --help" for name in ("fit", "validate", "sweep", "export", "completion")]

    def output(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        return {command: printed(capsys, *command.split())[1] for command in commands}

    whole = output(1000)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for command, shown in output(width).items():
        # An argument in quotes is one word, which nothing may break.
        lines = [line for line in shown.splitlines() if not re.search(r'^ +".{50,}"$', line)]
        assert max(map(len, lines)) <= min(width, 120), command
        words = shown.replace(" \\\n", "\n").split()  # a command goes on in the next line
        assert sorted(words) == sorted(whole[command].split()), command


def test_an_example_in_a_narrow_terminal_is_a_command_for_the_shell(monkeypatch, capsys):
    texts = []
    for width in (60, 120):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
        text = printed(capsys, "sweep", "--help")[1].partition("examples:\n")[2]
        texts.append([shlex.split(line) for line in text.replace("\\\n", "").splitlines()])
    assert texts[0] == texts[1] and texts[0][0][:3] == ["flash-pl", "sweep", "jmwst"]
