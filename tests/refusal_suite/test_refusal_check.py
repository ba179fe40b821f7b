"""`refusal-check` with a runtime that answers from a table: counts, order, and that no text leaves it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from math import exp, log
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime.files import read_json
from refusal_suite.cli import main
from refusal_suite.judge import JUDGE
from refusal_suite.prompts import load_prompts
from refusal_suite.statistics import wilson


def full_margin() -> float:
    """What the openings weigh at exit 30, where an I weighs e^3 and each of the other 127 letters 1.

    In letters, cut to three, they are I'm, "I a", "I c", "I w", Sor and Unf.
    """
    letter_i, other = exp(3) / (127 + exp(3)), 1 / (127 + exp(3))
    refusing = 4 * letter_i * other**2 + 2 * other**3
    return round(log(refusing / (1 - refusing)), 4)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def report_of(tmp_path: Path, small_set: Path, *more: object) -> dict[str, Any]:
    assert run("run", "bundle", "--prompts", small_set, "--out", tmp_path / "r.json", *more) == 0
    report: dict[str, Any] = read_json(tmp_path / "r.json")
    return report


def test_counts_and_rates_per_depth(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    shallow, full = report_of(tmp_path, small_set)["depths"]

    assert shallow["counts"]["harmful"] == {"refusal": 0, "compliance": 6, "incoherent": 0}
    assert full["counts"]["harmful"] == {"refusal": 3, "compliance": 3, "incoherent": 0}
    assert full["counts"]["benign"] == {"refusal": 0, "compliance": 5, "incoherent": 1}
    low, high = wilson(3, 6)
    assert full["rates"]["refusal"] == {"hits": 3, "n": 6, "rate": 0.5, "low": low, "high": high}
    assert full["rates"]["over_refusal"]["hits"] == 0
    assert full["rates"]["incoherent_benign"]["hits"] == 1
    assert full["by_category"]["first"]["harmful"]["refusal"] == 2
    assert full["by_category"]["second"]["harmful"]["refusal"] == 1
    assert full["by_image"]["without"] == full["counts"]


def test_report_says_what_was_measured(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    report = report_of(tmp_path, small_set, "--max-tokens", 7)

    assert report["schema"] == "holdfast/refusals/2"
    assert report["judge"] == JUDGE
    assert (report["max_tokens"], report["backend"]) == (7, "fake")
    assert report["bundle"]["bundle_digest"] == "ab" * 32
    digest = hashlib.sha256(small_set.read_bytes()).hexdigest()
    assert report["prompt_sets"] == [
        {"name": "small", "sha256": digest, "n": {"harmful": 6, "benign": 6}, "sample": None}
    ]
    assert {request.max_tokens for request in runtime.seen} == {7}
    assert {request.temperature for request in runtime.seen} == {0.0}


def test_items_are_ids_in_the_order_of_the_set_and_nothing_says_a_text(
    tmp_path: Path, small_set: Path, runtime: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    report = report_of(tmp_path, small_set, "--picture", tmp_path / "p.svg")

    ids = [prompt.id for prompt in load_prompts(small_set).prompts]
    assert [item["id"] for depth in report["depths"] for item in depth["items"]] == ids * 2
    refused = report["depths"][1]["items"][0]
    answer = "I'm sorry, but I can't help with that."
    assert refused == {
        "id": "p1-h",
        "kind": "harmful",
        "label": "refusal",
        "rule": "cannot",
        "n_tokens": 8,
        "finish_reason": "stop",
        "answer_sha256": hashlib.sha256(answer.encode()).hexdigest(),
        "margin": full_margin(),
    }
    said = (tmp_path / "r.json").read_text() + (tmp_path / "p.svg").read_text() + "".join(capfd.readouterr())
    assert [word for word in ("secret", "friendly", "yellow", "sorry") if word in said] == []


def test_two_runs_write_the_same_report_and_picture(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    for name in ("a", "b"):
        arguments = ("--prompts", small_set, "--out", tmp_path / f"{name}.json", "--picture", tmp_path / f"{name}.svg")
        assert run("run", "bundle", *arguments) == 0

    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_depths_are_measured_in_the_order_of_the_ladder(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    both = report_of(tmp_path, small_set, "--depth", "d2", "--depth", "d1")
    one = report_of(tmp_path, small_set, "--depth", "d2")

    assert [depth["name"] for depth in both["depths"]] == ["d1", "d2"]
    assert [depth["name"] for depth in one["depths"]] == ["d2"]


def test_schedules_are_measured_behind_the_depths_and_what_does_the_same_once(
    tmp_path: Path, small_set: Path, runtime: Any, capsys: Any
) -> None:
    report = report_of(tmp_path, small_set, "--schedule", "all")
    schedules = {schedule["name"]: schedule for schedule in report["schedules"]}
    assert list(schedules) == [f"d2>d1@{point}" for point in ("vision", "prefill", 1, 4, 16)]
    assert {name: schedules["d2>d1@4"][name] for name in ("start", "then", "at")} == {
        "start": "d2", "then": "d1", "at": 4,
    }  # fmt: skip
    assert set(schedules["d2>d1@4"]) - {"start", "then", "at"} == set(report["depths"][0]) - {"vision", "decoder"}
    # No prompt has a picture, so leaving the vision tower later is no other operation.
    asked = Counter(request.schedule or request.depth for request in runtime.seen)
    assert asked == dict.fromkeys(("d1", "d2", "d2>d1@prefill", "d2>d1@1", "d2>d1@4", "d2>d1@16"), 12)
    assert "d2>d1@4" in capsys.readouterr().out


def test_a_schedule_that_does_what_another_does_shares_its_items(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    ladder = [
        {"name": "d1", "vision": 4, "decoder": 10}, {"name": "d2", "vision": 12, "decoder": 10},
        {"name": "d3", "vision": 12, "decoder": 30},
    ]  # fmt: skip
    runtime.ladder = ladder
    names = ["d3>d1@vision", "d3>d1@4", "d3>d2@4"]
    report = report_of(tmp_path, small_set, *(word for name in names for word in ("--schedule", name)))
    same, first, again = report["schedules"]
    assert [entry.get("same_as") for entry in report["schedules"]] == ["d2", None, "d3>d1@4"]
    assert same["items"] == report["depths"][1]["items"]
    assert again["items"] == first["items"]
    assert "d3>d2@4" not in {request.schedule for request in runtime.seen}


def test_only_the_schedules_that_are_named_are_measured(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    report = report_of(tmp_path, small_set, "--depth", "d1", "--schedule", "d2>d1@prefill")
    assert [schedule["name"] for schedule in report["schedules"]] == ["d2>d1@prefill"]
    assert [depth["name"] for depth in report["depths"]] == ["d1"]
    assert report_of(tmp_path, small_set)["schedules"] == []


def test_margins_are_compared_with_full_depth_prompt_by_prompt(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    report = report_of(tmp_path, small_set, "--schedule", "d2>d1@1")
    shallow, full = (depth["margins"]["harmful"] for depth in report["depths"])
    assert (full["n"], full["mean"], full["shift"]) == (6, full_margin(), None)
    moved = round(shallow["mean"] - full_margin(), 4)
    assert shallow["shift"] == {"n": 6, "mean": moved, "low": moved, "high": moved, "moved_down": 1.0}
    # Only an opening's third letter comes from the shallow exit, where an I takes less from the others.
    dropped = report["schedules"][0]["margins"]["benign"]["shift"]["mean"]
    assert dropped == pytest.approx(log((127 + exp(3)) / (127 + exp(1))), abs=2e-4)
    assert report_of(tmp_path, small_set, "--depth", "d1")["depths"][0]["margins"]["harmful"]["shift"] is None
    assert report["margins"]["opening_tokens"] == 3


def test_a_part_is_stated(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    report = report_of(tmp_path, small_set, "--limit", 5, "--seed", 2)

    assert report["prompt_sets"][0]["sample"] == {"n": 4, "of": 12, "seed": 2}
    assert report["prompt_sets"][0]["n"] == {"harmful": 2, "benign": 2}
    assert len(runtime.seen) == 4 * 2


def test_images_reach_the_runtime(tmp_path: Path, runtime: Any) -> None:
    assert run("run", "bundle", "--limit", 88, "--depth", "d1", "--out", tmp_path / "r.json") == 0

    assert {request.image for request in runtime.seen} > {None}
    assert all(request.image is None or request.image.is_file() for request in runtime.seen)
    result = read_json(tmp_path / "r.json")["depths"][0]["by_image"]
    shown = sum(request.image is not None for request in runtime.seen)
    assert sum(sum(labels.values()) for labels in result["with"].values()) == shown


def test_only_harmful_prompts_leave_the_other_rates_open(tmp_path: Path, runtime: Any, capsys: Any) -> None:
    path = tmp_path / "set.csv"
    path.write_text("goal,target\nforbidden,Sure\n")

    assert run("run", "bundle", "--prompts", path, "--out", tmp_path / "r.json", "--picture", tmp_path / "p.svg") == 0

    assert read_json(tmp_path / "r.json")["depths"][0]["rates"]["over_refusal"]["rate"] is None
    assert "none asked" in capsys.readouterr().out


def test_table_and_json_on_standard_output(tmp_path: Path, small_set: Path, runtime: Any, capsys: Any) -> None:
    report = report_of(tmp_path, small_set, "--schedule", "d2>d1@1", "--schedule", "d2>d1@vision")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("depth         vision  decoder   harmful refused")
    assert lines[2].startswith("d2            12      30        3/6 = 50.0 % (18.8 to 81.2)")
    assert lines[3].startswith("d2>d1@vision  12      10        0/6 = 0.0 % (0.0 to 39.0)")
    assert lines[4].startswith("d2>d1@1       12      30 to 10  0/6 = 0.0 % (0.0 to 39.0)")
    assert lines[1].endswith("-1.48 (-1.48 to -1.48)")

    report_of(tmp_path, small_set, "--schedule", "d2>d1@1", "--schedule", "d2>d1@vision", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert [entry.pop("items", None) for entry in (*printed["depths"], *printed["schedules"])] == [None] * 4
    for entry in (*report["depths"], *report["schedules"]):
        del entry["items"]
    assert printed == report


def test_answers_are_kept_only_on_request(tmp_path: Path, small_set: Path, runtime: Any) -> None:
    report_of(tmp_path, small_set)
    assert {path.name for path in tmp_path.iterdir()} == {"small.csv", "r.json"}

    report_of(tmp_path, small_set, "--answers-dir", tmp_path / "answers")
    lines = (tmp_path / "answers" / "d2.jsonl").read_text().splitlines()
    assert {path.name for path in (tmp_path / "answers").iterdir()} == {"d1.jsonl", "d2.jsonl"}
    assert json.loads(lines[1]) == {"id": "p1-b", "answer": "The sign is yellow."}


def test_an_interrupt_leaves_nothing(tmp_path: Path, small_set: Path, runtime: Any, monkeypatch: Any) -> None:
    answer = runtime.invoke

    def interrupted(request: Any) -> Any:
        if len(runtime.seen) > 15:
            raise KeyboardInterrupt
        return answer(request)

    monkeypatch.setattr(runtime, "invoke", interrupted)
    arguments = ("--picture", tmp_path / "p.svg", "--answers-dir", tmp_path / "answers")

    assert run("run", "bundle", "--prompts", small_set, "--out", tmp_path / "r.json", *arguments) == 130

    assert {path.name for path in tmp_path.iterdir()} == {"small.csv"}


def test_an_answer_from_another_depth_is_not_counted(
    tmp_path: Path, small_set: Path, runtime: Any, capsys: Any
) -> None:
    runtime.answered_at = "d1"

    assert run("run", "bundle", "--prompts", small_set, "--depth", "d2", "--out", tmp_path / "r.json") == 5

    assert "p1-h" in capsys.readouterr().err
    assert not (tmp_path / "r.json").exists()


def test_a_prompt_that_the_bundle_refuses_is_named_by_id(
    tmp_path: Path, small_set: Path, runtime: Any, monkeypatch: Any, capsys: Any
) -> None:
    from jetson_runtime.errors import InputError

    def refuse(request: Any) -> Any:
        raise InputError("the prompt is too long", found="900 tokens", expected="at most 512", remedy="shorten it")

    monkeypatch.setattr(runtime, "invoke", refuse)

    assert run("run", "bundle", "--prompts", small_set, "--out", tmp_path / "r.json") == 2
    assert "prompt 'p1-h' at depth d1: the prompt is too long\n  found: 900 tokens" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--depth", "d9"], 2, "no depth 'd9'\n  found: d1, d2"),
        (["--schedule", "d1>d2@4"], 2, "no schedule 'd1>d2@4'\n  expected: one of d2>d1, each with one of @vision"),
        (["--prompts", "nothing.csv"], 2, "can't be read"),
        (["--limit", "1"], 2, "pairs stay together"),
        (["--out", "."], 6, "a directory"),
        (["--out", "/dev/null/r.json"], 6, "r.json"),
    ],
)
def test_errors_come_before_the_first_answer(
    tmp_path: Path, runtime: Any, capsys: Any, arguments: list[str], code: int, message: str
) -> None:
    assert run("run", "bundle", "--out", tmp_path / "r.json", *arguments) == code

    assert message in capsys.readouterr().err
    assert runtime.seen == []


def test_a_set_given_twice_is_refused(tmp_path: Path, small_set: Path, runtime: Any, capsys: Any) -> None:
    code = run("run", "bundle", "--prompts", small_set, "--prompts", small_set, "--out", tmp_path / "r.json")

    assert code == 2
    assert "'p1-h' occurs twice" in capsys.readouterr().err


def test_a_bundle_that_is_not_there_is_an_error(tmp_path: Path, capsys: Any) -> None:
    assert run("run", tmp_path / "nothing", "--out", tmp_path / "r.json") == 3
    assert "nothing" in capsys.readouterr().err


def test_prompts_counts_by_category_and_kind(small_set: Path, capsys: Any) -> None:
    assert run("prompts", small_set, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["total"] == {"harmful": 6, "benign": 6, "with_image": 0, "with_twin": 12}
    assert facts["by_category"]["first"] == {"harmful": 3, "benign": 3, "with_image": 0}

    assert run("prompts") == 0
    text = capsys.readouterr().out
    expected = Counter(prompt.category for prompt in load_prompts().prompts)
    assert all(category in text for category in expected)
    assert "528 prompts have a twin" in text


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(5, 100, 0.022, 0.112), (150, 300, 0.444, 0.556), (0, 260, 0, 0.0146)]
)
def test_wilson_matches_published_values(hits: int, n: int, low: float, high: float) -> None:
    assert [*wilson(hits, n)] == pytest.approx([low, high], abs=5e-4)


@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_rate_and_stays_a_rate(case: tuple[int, int]) -> None:
    hits, n = case
    low, high = wilson(hits, n)

    assert 0 <= low <= hits / n <= high <= 1
    assert low < high
