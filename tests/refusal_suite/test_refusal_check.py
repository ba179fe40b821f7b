"""`refusal-check` with a runtime that answers from a table: counts, order, and that no text leaves it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
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

    assert report["schema"] == "holdfast/refusals/1"
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
        "category": "first",
        "label": "refusal",
        "rule": "cannot",
        "judge": JUDGE,
        "n_tokens": 8,
        "finish_reason": "stop",
        "answer_sha256": hashlib.sha256(answer.encode()).hexdigest(),
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
    report = report_of(tmp_path, small_set)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("depth  vision  decoder  harmful refused")
    assert lines[2].startswith("d2     12      30       3/6 = 50.0 % (18.8 to 81.2)")

    report_of(tmp_path, small_set, "--json")
    printed = json.loads(capsys.readouterr().out)
    assert [depth.pop("items", None) for depth in printed["depths"]] == [None, None]
    for depth in report["depths"]:
        del depth["items"]
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
