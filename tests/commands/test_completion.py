"""Completion: the candidates, and the scripts in real shells."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flash_pl.cli import _parser, main
from flash_pl.commands.completion import SCRIPTS, candidates
from flash_pl.config import shipped
from flash_pl.config.keys import KEYS

ROOT = Path(__file__).parents[2]
PARSERS = _parser().commands.choices


def of(line):
    return candidates(f"flash-pl {line}", PARSERS)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", ["fit", "validate", "sweep", "compare", "export", "inspect", "configs", "help", "completion"]),
        ("f", ["fit"]),
        ("fit ", shipped.names()),
        ("fit jmwst dens", ["density=", "density_of="]),
        ("fit jmwst wire.", ["wire.values=", "wire.compress=", "wire.verify="]),
        ("fit jmwst scheduler.prune", ["scheduler.prune_rate="]),
        ("fit ssfl scheduler.prune", []),
        ("fit ssfl scheduler=nst scheduler.prune", ["scheduler.prune_rate="]),
        ("fit jmwst data=m", ["data=mnist"]),
        ("fit jmwst --data=m", ["--data=mnist"]),
        ("fit jmwst --data m", ["mnist"]),
        ("fit jmwst data.partition=i", ["data.partition=iid"]),
        ("fit jmwst scheduler.voter.resc", ["scheduler.voter.rescale=", "scheduler.voter.rescale."]),
        ("fit jmwst trainer.progress=", ["trainer.progress=true", "trainer.progress=false"]),
        ("fit jmwst trainer.monitor_mode=m", ["trainer.monitor_mode=max", "trainer.monitor_mode=min"]),
        ("sweep jmwst scheduler=jmwst,ns", ["scheduler=jmwst,nst"]),
        ("sweep jmwst --wo", ["--workers"]),
        ("fit jmwst 'unclosed dens", ["density=", "density_of="]),
        ("validate ", []),
        ("validate run dens", ["density=", "density_of="]),
        ("export run --s", ["--sparse"]),
        ("help scheduler.prune", ["scheduler.prune_rate"]),
        ("help sw", ["sweep"]),
        ("configs scheduler/j", ["scheduler/jmwst"]),
        ("completion ", ["bash", "zsh", "fish"]),
        ("nothing ", []),
        ("fit jmwst nothing.", []),
        ("fit jmwst nothing=", []),
    ],
)
def test_candidates(line, expected):
    assert of(line) == expected


def test_every_key_is_offered():
    offered = {*of("fit jmwst "), *of("fit jmwst trainer."), *of("fit jmwst wire.")}
    assert {key for key in KEYS if key not in ("trainer", "wire")} == {key[:-1] for key in offered if key[-1] == "="}


def test_the_hidden_command_prints_candidates_and_is_not_listed(capsys):
    assert main(["_complete", "flash-pl fit jmwst --dens"]) == 0
    assert capsys.readouterr().out == "--density=\n--density_of=\n"
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "_complete" not in capsys.readouterr().out


@pytest.fixture
def environment(tmp_path):
    """A folder with a command ``flash-pl`` and a run to complete, and the environment to find it."""
    program = tmp_path / "bin" / "flash-pl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m flash_pl "$@"\n')
    program.chmod(0o755)
    (tmp_path / "a_run").mkdir()
    paths = os.pathsep.join([str(program.parent), os.environ["PATH"]])
    return os.environ | {"PATH": paths, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}


LINES = {
    "flash-pl fi": ["fit"],
    "flash-pl fit jmw": ["jmwst"],
    "flash-pl fit jmwst scheduler.prune": ["scheduler.prune_rate="],
    "flash-pl fit jmwst data=fash": ["data=fashion_mnist"],
    "flash-pl fit jmwst --data=fash": ["--data=fashion_mnist"],
    "flash-pl validate a_": ["a_run"],
}
ASK = {
    # Prints whole words: bash replaces what follows "=" only.
    "bash": """
source <(flash-pl completion bash)
ask() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_WORDS=(${1//=/ = }) COMPREPLY=()
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )) last=${1##* } before=
    compopt() { :; }
    _flash_pl
    [[ $last == *=* ]] && before=${last%=*}=
    (( ${#COMPREPLY[@]} )) || COMPREPLY=($(compgen -f -- "$last"))
    printf '%s\\n' "${COMPREPLY[@]/#/$before}"
}
""",
    # Without a terminal there are no completions, so functions stand for those of zsh.
    "zsh": """
compdef() { :; }
compadd() { while [[ $1 != -- ]]; do shift; done; shift; (( $# )) && print -l -- "$@"; }
_files() { print -l -- $words[CURRENT]*(N); }
source <(flash-pl completion zsh)
ask() { words=(${(s: :)1}); CURRENT=$#words; _flash_pl; }
""",
    "fish": """
flash-pl completion fish | source
function ask
    complete -C $argv[1] | string split -f 1 \\t | string trim -r -c /
end
""",
}


@pytest.mark.parametrize("shell", ASK)
def test_the_script_completes_in_a_real_shell(shell, environment, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    asked = "\n".join(f"echo '> {line}'\nask '{line}'" for line in LINES)
    quiet = {"bash": "--norc", "zsh": "-f", "fish": "--no-config"}[shell]
    command = [shell, quiet, "-c", ASK[shell] + asked]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=120)
    answers = {part.splitlines()[0]: part.splitlines()[1:] for part in ran.stdout.split("> ")[1:]}
    assert answers == LINES, ran.stderr


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_has_no_error_of_syntax(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(SCRIPTS[shell])
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
