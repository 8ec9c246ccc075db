"""Completion: ``flash-pl completion SHELL`` prints a script, which asks ``flash-pl _complete LINE``.

The answer needs the keys, the fragments and the arguments of their classes, all of which are read without torch. A
script that lists all words beforehand could not know that ``scheduler.voter=`` takes the names in ``conf/voter``.
"""

import argparse
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from flash_pl.commands.parser import is_known
from flash_pl.config import shipped
from flash_pl.config.explained import arguments, explain
from flash_pl.config.given import SECTIONS as COMPONENTS
from flash_pl.config.keys import KEYS, SECTIONS
from flash_pl.errors import ConfigError

# In bash "=" may divide words; then only what follows it is replaced.
BASH = """\
_flash_pl() {
    local line=${COMP_LINE:0:COMP_POINT} program=${COMP_WORDS[0]/#\\~/$HOME} word candidate
    word=${line##*[[:space:]]}
    COMPREPLY=()
    while IFS= read -r candidate; do
        if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then
            candidate=${candidate#"${word%"${word##*=}"}"}
        fi
        COMPREPLY+=("$candidate")
    done < <("$program" _complete "$line" 2>/dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then
        compopt -o nospace
    fi
}
complete -o default -F _flash_pl flash-pl
"""
ZSH = """\
#compdef flash-pl
_flash_pl() {
    local -a candidates open
    candidates=("${(@f)$(${words[1]/#\\~/$HOME} _complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)}")
    candidates=(${candidates:#})
    if (( ! $#candidates )); then
        _files
        return
    fi
    open=(${(M)candidates:#*[=.]})
    candidates=(${candidates:#*[=.]})
    compadd -S '' -- $open
    compadd -- $candidates
    return 0
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
compdef _flash_pl flash-pl
"""
FISH = """\
function __flash_pl
    set -l candidates (flash-pl _complete (commandline -cp | string collect) 2>/dev/null)
    if test (count $candidates) -gt 0
        printf '%s\\n' $candidates
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c flash-pl -f -a '(__flash_pl)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


def completion(options: argparse.Namespace) -> None:
    """Print a script that completes commands, keys and values in a shell."""
    print(SCRIPTS[options.shell], end="")


def complete(options: argparse.Namespace) -> None:
    """Print the words that can stand at the end of a command line."""
    for candidate in candidates(options.line, options.parsers):
        print(candidate)


def candidates(line: str, parsers: Mapping[str, Any]) -> list[str]:
    """The words with which the last word of a line can go on.

    Args:
        line: what is typed, from ``flash-pl`` to the cursor.
        parsers: of the commands, by name.

    Returns:
        Whole words. Without any the shell completes names of files.
    """
    _, *before, current = _words(line)
    if not before:
        return _beginning([name for name in parsers if not name.startswith("_")], current)
    command, *given = before
    if command not in parsers:
        return []
    return _beginning(dict.fromkeys(_of_command(command, parsers, given, current)), current)


def _words(line: str) -> list[str]:
    """The words of a line; the last one, which is being typed, may be empty."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is not closed yet
        words = line.split()
    return words if len(words) > 1 and not line[-1:].isspace() else [*words, ""]


def _beginning(words: Iterable[str], current: str) -> list[str]:
    return [word for word in words if word.startswith(current)]


def _of_command(command: str, parsers: Mapping[str, Any], given: Sequence[str], current: str) -> Iterator[str]:
    parser = parsers[command]
    words = [word for word in given if not word.startswith("-")]
    if command == "help":
        yield from [] if words else [name for name in parsers if not name.startswith("_")]
        yield from [] if words else (name.rstrip("=") for name in _keys(current, given))
    elif command == "configs":
        yield from [] if words else [*shipped.names(), *shipped.folders()]
        yield from (
            f"{folder}/{name}" for folder in shipped.folders() for name in shipped.names(folder) if "/" in current
        )
    elif command == "completion":
        yield from [] if words else SCRIPTS
    elif not parser.takes_keys:
        yield from parser.option_names if current.startswith("-") else []
    elif given and given[-1].startswith("--") and given[-1] not in parser.option_names and is_known(given[-1][2:]):
        yield from _values(given[-1][2:], current)
    elif current.startswith("-"):
        yield from [] if "=" in current else parser.option_names
        yield from (f"--{word}" for word in _keys(current[2:], given))
    elif not words and command != "validate":
        yield from shipped.names()
    elif words:
        yield from _keys(current, given)


def _keys(current: str, given: Sequence[str]) -> Iterator[str]:
    """Keys, each with what follows it: ``=`` before a value, ``.`` before a key below; or ``key=value``."""
    if "=" in current:
        key, _, text = current.partition("=")
        yield from (f"{key}={value}" for value in _values(key, text))
        return
    above, dot, _ = current.rpartition(".")
    if not dot:
        for key in KEYS:
            if "." not in key:
                yield from [f"{key}."] if key in SECTIONS else [f"{key}="]
                yield from [f"{key}."] if key in COMPONENTS else []
    elif above in SECTIONS:
        yield from (f"{key}=" for key in KEYS if key.startswith(f"{above}."))
    else:
        folder = above.rpartition(".")[2]
        for name in _arguments(above, folder, given):
            yield f"{above}.{name}="
            yield from [f"{above}.{name}."] if name in shipped.folders() else []


def _arguments(component: str, folder: str, given: Sequence[str]) -> Iterator[str]:
    """The arguments of the component that the line or its config names, else those of all in its folder."""
    named = [word.lstrip("-").partition("=")[2] for word in given if word.lstrip("-").startswith(f"{component}=")]
    if not named and component in COMPONENTS:
        for word in given[:1]:
            with suppress(ConfigError, OSError):
                config = shipped.content(word) if word in shipped.names() else shipped.read_config(word)
                named = [str(config.get(component, ""))]
    for name, meanings in arguments(folder).items() if component.split(".")[0] in COMPONENTS else ():
        holders = {one for meaning in meanings for names in meaning.defaults.values() for one in names}
        if not (named and named[-1] in shipped.names(folder)) or named[-1] in holders or not holders:
            yield name


def _values(key: str, text: str) -> Iterator[str]:
    """The values of a key that can be listed; of a list of values with commas, as in a sweep, the last one."""
    before = text[: text.rfind(",") + 1]
    with suppress(ConfigError):
        explanation = explain(key)
        names = shipped.names(explanation.folder) if explanation.folder else []
        words = [choice for meaning in explanation.meanings for choice in _choices(meaning.kind, meaning.range)]
        yield from (
            before + value for value in dict.fromkeys([*names, *words, *(["last"] if key == "ckpt_path" else [])])
        )


def _choices(kind: str, range: str) -> Iterator[str]:
    """The values in a description that lists them, and null where it is allowed.

    >>> list(_choices("a string", "max or min")), list(_choices("an integer", "an integer of at least 1 or null"))
    (['max', 'min'], ['null'])
    """
    for words in (range, kind):
        parts = words.split(" or ")
        yield from (part.strip("'") for part in parts if len(parts) > 1 and re.fullmatch(r"[\w'-]+", part))
