"""References in configs of somebody else: they stand for keys of the config, and nothing of this machine."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from flash_pl.config import compose, read_config, resolve_plain, to_repeat
from flash_pl.config.shipped import names
from flash_pl.errors import ConfigError


def without_given(config):
    return {key: value for key, value in config.items() if key != "given"}


@pytest.mark.parametrize("name", names())
def test_every_shipped_config_is_resolved_as_a_run_resolves_it(name):
    assert resolve_plain(to_repeat(read_config(name)), name) == compose(read_config(name))


REFERENCES = {
    "rounds": 8,
    "density": 0.1,
    "name": "rounds",
    "list": [1, "${rounds}", {"a": "${density}"}],
    "whole": "${list}",
    "none": None,
    "true": True,
    "item": "${list[2].a}",
    "dotted": "${list.1}",
    "through": "${whole.1}",
    "neighbor": {"a": 3, "b": "${.a}", "c": "${..rounds}", "d": ["${..a}"]},
    "share": "${times:0.5, ${times:0.5,${rounds}}}",
    "brace": "}",
}


def test_references_to_keys_are_resolved_as_omegaconf_does():
    assert resolve_plain(REFERENCES, "x") == OmegaConf.to_container(OmegaConf.create(REFERENCES), resolve=True)


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:SECRET}",
        "a/${oc.env:SECRET}",
        "${oc.env:${name}}",
        "${oc.select:rounds}",
        "${ oc.decode:'1'}",
        "${times:2,${oc.env:SECRET}}",
        "${rounds.${oc.env:SECRET}}",
        "${unclosed",
        "${a} ${",
        "d=${rounds}",
        r"\${rounds}",
        "${${name}}",
        "${times:2}",
    ],
)
def test_other_resolvers_and_broken_references_stay_as_text(text, monkeypatch):
    monkeypatch.setenv("SECRET", "7")
    assert resolve_plain({"rounds": 8, "name": "SECRET", "key": text, "other": "${key}"}, "x")["other"] == text


@pytest.mark.parametrize(
    "config",
    [
        {"key": "${key}"},
        {"key": "${key2}", "key2": "${key}"},
        {"key": {"b": "${key}"}},
        {"key": {"b": "${key.b.c}"}},
        {"key": ["${key}"]},
        {"key": "${missing}"},
        {"key": "${list.2}", "list": [1]},
        {"key": "${.}"},
        {"key": "${....a}"},
        {"key": "${times:2,text}"},
        {"key": "${times:2,${list}}", "list": [1]},
        {"key": "${times:2,${huge}}", "huge": 10**400},
        {"key": "${times:2," * 400 + "1" + "}" * 400},
        {f"key{level}": [f"${{key{level + 1}}}"] * 2 for level in range(30)} | {"key30": "x"},
        {"key": ["x"] * 200, "b": ["${key}"] * 200},
        {"key": "${" + "a" * 9000 + "}"},
    ],
)
def test_a_reference_without_a_value_is_one_error_in_bounded_time(config):
    with pytest.raises(ConfigError) as caught:
        resolve_plain(config, "some/config.yaml")
    assert "key" in caught.value.problem and "some/config.yaml" in caught.value.problem
    assert len(str(caught.value)) < 400


def test_a_value_that_contains_itself_is_one_error():
    loop = []
    loop.append(loop)
    with pytest.raises(ConfigError):
        resolve_plain({"key": loop}, "x")


@given(st.text(alphabet="${}\\.:,[]a1 ", max_size=40))
def test_no_text_raises_anything_else(text):
    try:
        resolve_plain({"a": 1, "key": text}, "x")
    except ConfigError:
        pass
