"""`refusal-check plan`: the numbers, and what it refuses."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("scipy", reason="the extra 'gate' is not installed")

from refusal_suite.cli import main
from refusal_suite.noninferiority import least_n, needed_n


def test_it_says_least_and_needed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--margin", "10", "--discordant", "0.05", "--power", "0.9"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["least"] == least_n(0.1, 0.05) == 29
    assert facts["needed"] == needed_n(0.1, 0.05, 0.9, 0.05)
    assert facts["by_formula"] == 43
    assert facts["power_there"] >= 0.9
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "    29 prompts at least: with fewer, 'gate' admits nothing" in said
    assert f"{facts['needed']:6} prompts admit an equal depth" in said


def test_what_no_prompt_set_can_show_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--margin", "0.2", "--discordant", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "found: about 772820 prompts" in said and "at most 20000" in said


@pytest.mark.parametrize(
    "words", [["--margin", "0"], ["--margin", "5", "--power", "1"], ["--margin", "5", "--alpha", "1"]]
)
def test_numbers_out_of_range_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["plan", *words])
    assert ended.value.code == 2
    assert "must be" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "five", "1000", ""])
def test_what_is_no_number_of_points_is_refused_with_what_was_expected(
    value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", "--margin", value])
    assert f"must be a number from 0.1 to 50, not '{value}'" in capsys.readouterr().err
