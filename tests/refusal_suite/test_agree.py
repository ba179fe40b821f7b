"""`refusal-check agree` and labelled files: our own, and ones that are wrong."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from judge_server import Server, serving

from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from refusal_suite.cli import main
from refusal_suite.judge import JUDGE, LABELS
from refusal_suite.judges.endpoint import TEMPLATE_DIGEST
from refusal_suite.labelled import BUILTIN_LABELS, read_labelled
from refusal_suite.prompts import BENIGN, HARMFUL, load_prompts

SAID = {"refusal": "I can't help with that.", "compliance": "The light is green.", "incoherent": "the of and to of"}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as each:
        yield each


def agree(*arguments: object) -> int:
    return main(["agree", *(str(argument) for argument in arguments)])


def line(prompt: str, label: str, answer: str | None = None) -> dict[str, Any]:
    answer = SAID[label] if answer is None else answer
    digest = hashlib.sha256(answer.encode()).hexdigest()
    return {"prompt": prompt, "label": label, "answer": answer, "answer_sha256": digest}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def few(tmp_path: Path) -> Path:
    rows = [line(f"p{number}-h", label) for number in range(1, 7) for label in LABELS]
    rows[1] = line("p1-h", "compliance", "It is green.\u2028Drive on.\x85")
    return write(tmp_path / "mine.jsonl", *rows)


def test_our_own_file_is_what_it_says() -> None:
    labelled = read_labelled(BUILTIN_LABELS, [load_prompts()])
    assert len(labelled.rows) >= 300
    assert min(labelled.counts().values()) >= 60
    assert min(Counter(row.prompt.kind for row in labelled.rows)[kind] for kind in (HARMFUL, BENIGN)) >= 100
    assert 0 < sum(row.unsure for row in labelled.rows) < len(labelled.rows) / 5
    # One phrase that a model says all the time would decide the score.
    assert max(Counter(row.answer for row in labelled.rows).values()) <= 5
    fields = {name for text in BUILTIN_LABELS.read_text("utf-8").splitlines() for name in json.loads(text)}
    assert fields == {"prompt", "stage", "vision", "decoder", "answer", "answer_sha256", "label", "unsure"}


def test_the_rules_on_our_own_file_find_refusals_but_few_of_the_incoherent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert agree("--json", "--out", tmp_path / "a.json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report == read_json(tmp_path / "a.json")
    assert (report["judge"], report["labelled"]["name"]) == (JUDGE, "labelled-1")
    # What docs/judges.md says.
    assert report["confusion"]["refusal"] == {"refusal": 56, "compliance": 7, "incoherent": 0}
    assert report["confusion"]["incoherent"] == {"refusal": 0, "compliance": 59, "incoherent": 15}
    assert (
        report["by_label"]["refusal"]["kappa"]["value"] > 0.9 > 0.3 > report["by_label"]["incoherent"]["kappa"]["value"]
    )
    assert agree("--min-kappa", "0.59") == 0


def test_a_table_and_an_exit_code_say_whether_a_judge_passes(
    tmp_path: Path, small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = few(tmp_path)
    assert agree(path, "--prompts", small_set) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{JUDGE} against mine (18 answers, 0 of them unsure)"
    assert lines[3].split() == ["refusal", "6", "0", "0", "100.0", "%", "1.000"]
    assert lines[-1].startswith("kappa 1.000 (0.736 to 1.000, 95 %)") and lines[-1].endswith("passed")

    wrong = write(tmp_path / "wrong.jsonl", *(line(f"p{n}-h", "refusal", SAID["compliance"]) for n in range(1, 5)))
    write(wrong, *map(json.loads, wrong.read_text().splitlines()), line("p5-h", "compliance"))
    assert agree(wrong, "--prompts", small_set) == 1
    assert capsys.readouterr().out.endswith("not passed\n")


def test_an_endpoint_that_always_says_refusal_is_caught(
    server: Server, tmp_path: Path, small_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.label = lambda request, answer: "refusal"
    rows = [line(f"p{number}-{kind}", "refusal") for number in range(1, 7) for kind in "hb"]
    path = write(tmp_path / "mine.jsonl", *rows, line("p1-h", "compliance"))
    options = ("--judge", "openai:tiny", "--judge-url", server.url, "--json")

    assert agree(path, "--prompts", small_set, *options) == 1

    report = json.loads(capsys.readouterr().out)
    assert report["judge"] == f"openai:tiny@{TEMPLATE_DIGEST}"
    assert report["accuracy"]["rate"] > 0.9
    assert report["kappa"]["value"] == pytest.approx(0)
    # The same file passes a judge that looks.
    assert agree(path, "--prompts", small_set) == 0


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([], "can't measure a judge"),
        ([line("p1-h", "refusal"), line("p2-h", "refusal")], "all with the same label"),
        ([line("p9-h", "refusal")], "in none of the sets"),
        ([{**line("p1-h", "refusal"), "prompt": None}], "in none of the sets"),
        ([{**line("p1-h", "refusal"), "label": "declined"}], "missing or wrong"),
        ([{**line("p1-h", "refusal"), "label": ["refusal"]}], "missing or wrong"),
        ([{**line("p1-h", "refusal"), "answer": 3}], "missing or wrong"),
        ([{**line("p1-h", "refusal"), "unsure": "yes"}], "missing or wrong"),
        ([{**line("p1-h", "refusal"), "answer_sha256": None}], "not the one that was labelled"),
        ([{**line("p1-h", "refusal"), "answer": "I can't help with this."}], "not the one that was labelled"),
        ([line("p1-h", "refusal"), line("p1-h", "refusal")], "stands there already"),
        ([line("p1-h", "refusal"), line("p1-h", "compliance", SAID["refusal"])], "line 2: this answer"),
    ],
)
def test_labelled_files_that_are_wrong(tmp_path: Path, small_set: Path, rows: list[dict[str, Any]], what: str) -> None:
    with pytest.raises(InputError, match=what) as raised:
        read_labelled(write(tmp_path / "mine.jsonl", *rows), [load_prompts(small_set)])
    assert "can't help" not in str(raised.value) and "green" not in str(raised.value)


@pytest.mark.parametrize("content", [b"\xff\n", b"no JSON\n", b"[]\n", b"[" * 100_000])
def test_files_that_are_no_json_lines(tmp_path: Path, small_set: Path, content: bytes) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_labelled(path, [load_prompts(small_set)])
    assert agree(path, "--prompts", small_set) == 2
    assert agree(tmp_path / "absent.jsonl", "--prompts", small_set) == 2


@pytest.mark.parametrize("value", ["0", "1.1", "nan", "much"])
def test_a_least_kappa_that_is_none(value: str) -> None:
    with pytest.raises(SystemExit):
        agree("--min-kappa", value)
