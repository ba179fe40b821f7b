"""Choosing a judge: what fits together, and what ends in a message before anything is measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest

from jetson_runtime.errors import ConfigError
from refusal_suite.cli import main
from refusal_suite.judge import JUDGE
from refusal_suite.judges.options import add_judge_options, chosen_judge
from refusal_suite.prompts import Prompt


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_judge_options(parser)
    return parser.parse_args(words)


def test_the_rules_judge_unless_another_is_named() -> None:
    judge = chosen_judge(parsed())
    prompts = [Prompt(f"p{number}", "Is the light green?", "benign", "none") for number in range(3)]
    verdicts = judge(prompts, ["Yes.", "I can't help with that.", "Is the light green?"])
    assert [verdict.label for verdict in verdicts] == ["compliance", "refusal", "incoherent"]
    assert {verdict.judge for verdict in verdicts} == {judge.name} == {JUDGE}
    assert chosen_judge(parsed("--judge", "rules")).name == JUDGE


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--judge", "people"), "unknown judge 'people'"),
        (("--judge", "rules:1"), "unknown judge"),
        (("--judge", "model"), "unknown judge"),
        (("--judge", "openai:"), "unknown judge"),
        (("--judge-labels", "A=refusal"), "--judge-labels belongs to another kind"),
        (("--judge-url", "http://127.0.0.1/v1"), "--judge-url belongs to another kind"),
        (("--judge", "model:here", "--judge-key-env", "KEY"), "--judge-key-env belongs to another kind"),
        (("--judge", "openai:m", "--judge-labels", "A=refusal"), "--judge-labels belongs to another kind"),
        (("--judge", "openai:m"), "has no address"),
        (("--judge", "openai:m", "--judge-url", "m"), "no address of an endpoint"),
        (("--judge", "model:here", "--judge-labels", ""), "can't be read"),
        (("--judge", "model:here", "--judge-labels", "A=refusal,A=compliance"), "can't be read"),
        (("--judge", "model:here", "--judge-labels", "A=declined"), "can't be read"),
        (("--judge", "model:here", "--judge-labels", "refusal"), "can't be read"),
    ],
)
def test_options_that_do_not_fit(words: tuple[str, ...], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        chosen_judge(parsed(*words))


@pytest.mark.parametrize("value", [None, "", "  ", "line\nbreak", "clé"])
def test_a_variable_that_holds_no_key(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDFAST_TEST_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("HOLDFAST_TEST_KEY", value)
    words = ("--judge", "openai:m", "--judge-url", "http://127.0.0.1/v1", "--judge-key-env", "HOLDFAST_TEST_KEY")
    with pytest.raises(ConfigError, match="holds no key") as raised:
        chosen_judge(parsed(*words))
    assert not value or not value.strip() or value not in str(raised.value)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "1e9", "soon"])
def test_a_timeout_that_is_none(value: str) -> None:
    with pytest.raises(SystemExit):
        parsed("--judge-timeout-s", value)


def test_a_judge_that_is_not_there_is_found_before_the_first_answer(
    tmp_path: Path, small_set: Path, runtime: Any, capsys: Any
) -> None:
    words = ["run", "bundle", "--prompts", small_set, "--out", tmp_path / "r.json", "--judge", "model:absent"]
    assert main([str(word) for word in words]) == 3
    assert "no such directory" in capsys.readouterr().err
    assert runtime.seen == []
