"""The command ``flash-pl help KEY``, and the help text of ``flash-pl fit``."""

import argparse

from flash_pl.config import shipped
from flash_pl.config.docstrings import first_sentence
from flash_pl.config.explained import Explanation, Meaning, as_text, explain
from flash_pl.config.keys import KEYS, SECTIONS
from flash_pl.lines import filled, listed

ABOUT = """
Inside data, model, scheduler, budget, aggregator, sampler and other components a key stands for an argument of the
class: scheduler.prune_rate is short for scheduler.init_args.prune_rate. A name stands for a shipped file, see flash-pl
configs. A data set has defaults, such as its model; your own values win. --key=value and --key value mean key=value.
flash-pl help KEY explains a key, such as flash-pl help scheduler.prune_rate.

examples:
  flash-pl fit jmwst                                       digits, a minute on a CPU
  flash-pl fit jmwst data=fashion_mnist density=0.1        another data set
  flash-pl fit spdst data=cifar10 data.root=FOLDER rounds=600
  flash-pl fit jmwst scheduler.prune_rate=0.3 data.partition=iid
  flash-pl fit jmwst data=cifar10 model=torchvision.models.resnet18
  flash-pl fit jmwst scheduler.voter=my_file.MyVote
  flash-pl fit jmwst "callbacks=[my_file.MyCallback]"
  flash-pl fit hetero_jmwst "budget.tiers=[{density: 0.02, share: 0.5}, {density: 0.05, share: 0.5}]"
  flash-pl fit RUN/config.yaml                             repeat a run
  flash-pl fit jmwst rounds=200 ckpt_path=last             resume the newest run of this name
  flash-pl fit jmwst trainer.devices=4 trainer.accelerator=gpu             on four GPUs, with the same result
"""


def help(options: argparse.Namespace) -> None:
    """Explain keys of the config, or commands."""
    texts = [
        options.parsers[name].format_help().rstrip() if name in options.parsers else about_key(name.partition("=")[0])
        for name in options.names
    ]
    print("\n\n".join(texts))


def about_key(key: str) -> str:
    """What a key means, which values fit, its default, and what can be set below it.

    >>> print(about_key("density"))
    density: target share of active weights, over all weights that may be masked; or of FLOPs (density_of)
      type     a number in (0, 1]
      default  0.05
      set it   flash-pl fit CONFIG density=VALUE

    Raises:
        ConfigError: there is no such key.
    """
    explanation = explain(key)
    meanings = sorted(explanation.meanings, key=lambda meaning: -sum(map(len, meaning.defaults.values())))
    lines = [line for meaning in meanings for line in _about_meaning(explanation, meaning)]
    if explanation.key not in SECTIONS:
        lines.append(f"  set it   flash-pl fit CONFIG {explanation.key}=VALUE")
    if explanation.namesakes:
        lines.append(filled(", ".join(explanation.namesakes), "  also     ", " " * 11))
    if explanation.folder:
        names = shipped.names(explanation.folder)
        about = f"names that it can have (flash-pl configs {explanation.folder} shows their options)"
        lines += ["", filled(about, "", "")]
        lines.append(listed([(name, shipped.description(name, explanation.folder)) for name in names]))
    if explanation.below:
        lines += ["", "keys below it" + (" [where not all of these names have them]" if explanation.folder else "")]
        entries: list[tuple[str, str]] = []
        for name, texts in explanation.below.items():
            meanings_below = [text + (f" [{', '.join(names)}]" if names else "") for text, names in texts.items()]
            heads = [f"{explanation.key}.{name}", *[""] * (len(meanings_below) - 1)]
            entries += zip(heads, meanings_below, strict=True)
        lines.append(listed(entries))
    return "\n".join(lines)


def _about_meaning(explanation: Explanation, meaning: Meaning) -> list[str]:
    names = [name for names in meaning.defaults.values() for name in names]
    facts = {"of": f"{', '.join(names)} ({', '.join(meaning.classes)})" if meaning.classes else ""}
    # A range says the type too, but for an interval.
    facts["type"] = f"{meaning.kind} {meaning.range}" if meaning.range.startswith("in ") else meaning.range
    facts["type"] = facts["type"] or meaning.kind
    if explanation.folder and meaning.classes:
        facts["type"] = f"a name or the path of a class, which makes {meaning.kind}"
    several = len(meaning.defaults) > 1
    of_each = [
        f"{value} {_holders(names)}" if several and names else value for value, names in meaning.defaults.items()
    ]
    facts["default"] = "; ".join(of_each)
    text = meaning.help.rstrip(".") or f"an argument of {', '.join(meaning.classes)}"
    return [filled(f"{explanation.key}: {text}", "", "  ")] + [
        filled(text, f"  {name:<9}", " " * 11) for name, text in facts.items() if text
    ]


def _holders(names: list[str]) -> str:
    """Who has a default: fragments, or data sets that bring it.

    >>> _holders(["jmwst", "nst"]), _holders(["data=digits", "data=synthetic"])
    ('in jmwst, nst', 'with data=digits or data=synthetic')
    """
    return f"with {' or '.join(names)}" if "=" in names[0] else f"in {', '.join(names)}"


def fit_help() -> str:
    """Every key with the first sentence of its help and its default, and examples, as ``laid_out`` takes them."""
    return "\n".join(["keys, meaning [default]:", *map(_key_help, KEYS), ABOUT])


def _key_help(name: str) -> str:
    default = "" if name in SECTIONS else f" [{as_text(KEYS[name].default)}]"
    return f"  {name}  {first_sentence(KEYS[name].help)}{default}"
