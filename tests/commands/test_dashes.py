"""``--key=value`` and ``--key value`` stand for ``key=value``; the options of a command stay options."""

from pathlib import Path

import pytest

from flash_pl.cli import _parser, main


def parsed(*arguments):
    return _parser().parse_args(arguments)


@pytest.mark.parametrize("command", [["fit", "jmwst"], ["sweep", "jmwst"], ["validate", "run"]])
def test_a_key_with_dashes_is_a_key(command):
    plain = parsed(*command, "density=0.1", "lr=-1", "scheduler.prune_rate=0.3", "seed=1,2").arguments
    equals = parsed(*command, "--density=0.1", "--lr=-1", "--scheduler.prune_rate=0.3", "--seed=1,2").arguments
    spaces = parsed(*command, "--density", "0.1", "--lr", "-1", "--scheduler.prune_rate", "0.3", "--seed", "1,2")
    assert plain == equals == spaces.arguments
    mixed = parsed(command[0], "--density", "0.1", command[1], "lr=-1", "--scheduler.prune_rate=0.3", "seed=1,2")
    assert sorted(mixed.arguments) == sorted(plain)


def test_options_stay_options():
    options = parsed("sweep", "jmwst", "--seed", "1,2", "--out=there", "--workers=2", "--target", "0.8")
    assert (options.out, options.workers, options.target) == (Path("there"), 2, 0.8)
    assert options.arguments == ["seed=1,2"]
    assert parsed("validate", "run", "--trust", "--rounds", "3").trust
    assert parsed("fit", "jmwst", "--dry-run", "--rounds", "3").run.endswith("dry_run")
    assert parsed("fit", "jmwst").run.endswith("fit.fit")
    assert parsed("fit", "jmwst", "--", "--density=1").arguments == ["--density=1"]
    with pytest.raises(SystemExit) as stop:
        parsed("fit", "--density", "0.1", "--help")
    assert stop.value.code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "jmwst", "--denisty=0.1"], "--density"),
        (["fit", "jmwst", "--local-epochs", "3"], "--local_epochs"),
        (["fit", "jmwst", "--dryrun"], "--dry-run"),
        (["compare", "run", "--density=0.1"], "--density: this is an option of flash-pl export"),
        (["fit", "jmwst", "--density"], "--density: a value is missing"),
        (["fit", "jmwst", "--seed", "--lr", "0.1"], "--seed: a value is missing"),
        (["fit", "jmwst", "--workers", "2"], "flash-pl sweep"),
        (["sweep", "jmwst", "--workers", "two"], "--workers: 'two' is not an integer"),
        (["sweep", "jmwst", "seed=1", "--workers", "0"], "--workers: 0 is not an integer"),
        (["compare", "run", "--target", "abc"], "--target: 'abc' is not a number"),
        (["compare", "run", "--target", "nan"], "--target: "),
        (["compare", "run", "--out", "~nobody-here/x"], "--out: '~nobody-here/x'"),
        (["export", "run", "--to", "a.onnx", "--density", "x"], "--density: 'x' is not a number"),
    ],
)
def test_what_is_neither_is_refused_with_a_hint(arguments, words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err and err.startswith("flash-pl: error: ") and err.count("\n") == 1


def test_a_wrong_value_is_named_by_its_key(capsys):
    assert main(["fit", "jmwst", "--data", "mnits"]) == 2
    assert "data: 'mnits'" in capsys.readouterr().err
