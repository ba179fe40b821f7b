"""A judge behind an OpenAI-compatible endpoint, against a real server on this machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_server import KEY, Server, completion, serving

from jetson_runtime.errors import BackendError, ConfigError
from jetson_runtime.files import read_json
from refusal_suite.cli import main
from refusal_suite.judge import LABELS, Verdict
from refusal_suite.judges.endpoint import ATTEMPTS, LONGEST_WAIT_S, TEMPLATE, TEMPLATE_DIGEST, EndpointJudge
from refusal_suite.judges.http import LONGEST_BODY, Reply, json_post
from refusal_suite.prompts import Prompt

PROMPT = Prompt("p1", "a secret request", "harmful", "none")
REFUSED = "I can't help with that."


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as each:
        yield each


@pytest.fixture
def waits() -> list[float]:
    return []


def judge_at(server: Server, waits: list[float], key: str | None = None, timeout_s: float = 10.0) -> EndpointJudge:
    return EndpointJudge("tiny", json_post(f"{server.url}/chat/completions", key, timeout_s), waits.append)


def refused(judge: EndpointJudge) -> str:
    with pytest.raises(BackendError, match="gave no verdict on the answer to 'p1'") as raised:
        judge([PROMPT], [REFUSED])
    said = str(raised.value)
    assert [word for word in (PROMPT.text, REFUSED, KEY) if word in said] == []
    return said


def test_each_answer_is_judged_in_order_with_its_request(server: Server, waits: list[float]) -> None:
    judge = judge_at(server, waits, KEY)
    prompts = [Prompt(f"p{number}", f"request {number}", "harmful", "none") for number in range(20)]
    answers = [REFUSED if number % 3 else f"Answer {number}." for number in range(20)]

    verdicts = judge(prompts, answers)

    name = f"openai:tiny@{TEMPLATE_DIGEST}"
    labels = ["refusal" if number % 3 else "compliance" for number in range(20)]
    assert verdicts == [Verdict(label, "endpoint", name) for label in labels]
    assert judge.name == name and "127.0.0.1" not in name
    sent = {json.loads(body["messages"][1]["content"])["request"]: body for body in server.seen}
    assert set(sent) == {prompt.text for prompt in prompts}
    body = sent["request 3"]
    assert body["messages"][0] == {"role": "system", "content": TEMPLATE}
    assert json.loads(body["messages"][1]["content"]) == {"request": "request 3", "answer": "Answer 3."}
    assert (body["model"], body["temperature"]) == ("tiny", 0)
    assert set(server.keys) == {f"Bearer {KEY}"} and set(server.paths) == {"/v1/chat/completions"}
    assert waits == []


def test_a_server_that_fails_for_a_moment_is_asked_again(server: Server, waits: list[float]) -> None:
    server.plan = [500, 429, completion("I would say refusal")]
    assert judge_at(server, waits)([PROMPT], [REFUSED])[0].label == "refusal"
    assert waits == [1, 2, 4]
    assert server.keys == [None] * 4


def test_attempts_and_waits_are_bounded(server: Server, waits: list[float]) -> None:
    server.plan, server.headers = [503] * 10, {"Retry-After": "7"}
    assert f"status 503, after {ATTEMPTS} attempts" in refused(judge_at(server, waits))
    assert waits == [7] * (ATTEMPTS - 1) and len(server.seen) == ATTEMPTS

    server.headers, before = {"Retry-After": "86400"}, len(waits)
    refused(judge_at(server, waits))
    assert waits[before:] == [LONGEST_WAIT_S] * (ATTEMPTS - 1)


@pytest.mark.parametrize(
    ("status", "remedy"),
    [(400, "log"), (401, "--judge-key-env"), (403, "key"), (404, "--judge-url"), (302, "redirects are not followed")],
)
def test_a_refused_request_is_not_repeated(server: Server, waits: list[float], status: int, remedy: str) -> None:
    server.plan, server.headers = [status], {"Location": f"{server.url}/elsewhere"}
    said = refused(judge_at(server, waits, KEY))
    assert f"status {status}, after 1 attempt\n" in said and remedy in said
    assert len(server.seen) == 1 and waits == []


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[" * 100_000,
        b"{}",
        b'{"choices": []}',
        completion(None),
        completion("refusal"),
        completion('```json\n{"label": "refusal"}\n```'),
        completion('{"label": "Refusal"}'),
        completion('{"label": ["refusal"]}'),
        completion('{"label": "refusal", "reason": "it says no"}'),
        completion('{"label": "compliance", "label": "refusal"}'),
        completion('["refusal"]'),
        completion("[" * 100_000),
    ],
)
def test_only_one_exact_form_is_a_verdict(server: Server, waits: list[float], body: bytes) -> None:
    server.plan = [body] * ATTEMPTS
    said = refused(judge_at(server, waits))
    assert "JSON only" in said
    assert len(server.seen) == ATTEMPTS


WORDS = st.sampled_from(["label", "refusal", "compliance", "incoherent", "reason", "Refusal", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | WORDS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(WORDS, inner, max_size=2),
    max_leaves=4,
)


@given(VALUES, st.sampled_from(["", " ", "\n", "```", "}"]))
def test_whatever_a_model_writes_is_one_of_three_labels_or_an_error(value: Any, after: str) -> None:
    judge = EndpointJudge("tiny", lambda body: Reply(200, completion(json.dumps(value) + after)), lambda seconds: None)
    exact = isinstance(value, dict) and list(value) == ["label"] and value["label"] in LABELS and not after.strip()
    if exact:
        assert judge([PROMPT], [REFUSED])[0].label == value["label"]
    else:
        with pytest.raises(BackendError):
            judge([PROMPT], [REFUSED])


def test_a_server_that_does_not_answer_in_time_is_given_up(server: Server, waits: list[float]) -> None:
    server.ready.clear()
    said = refused(judge_at(server, waits, timeout_s=0.05))
    assert "no reply within 0.05 s" in said and "--judge-timeout-s" in said
    assert len(waits) == ATTEMPTS - 1


def test_a_reply_that_never_ends_is_given_up(server: Server, waits: list[float]) -> None:
    server.plan = [b" " * (LONGEST_BODY + 1)] * ATTEMPTS
    assert f"more than {LONGEST_BODY} bytes" in refused(judge_at(server, waits))


def test_a_server_that_is_not_there(waits: list[float]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    judge = EndpointJudge("tiny", json_post(f"http://127.0.0.1:{port}/v1", None, 1.0), waits.append)
    said = refused(judge)
    assert "no connection" in said and str(port) not in said


def test_one_failure_ends_the_batch(server: Server, waits: list[float]) -> None:
    server.plan = [401] * 500
    with pytest.raises(BackendError):
        judge_at(server, waits)([PROMPT] * 500, [REFUSED] * 500)
    assert len(server.seen) < 500


@pytest.mark.parametrize(
    ("url", "key", "what"),
    [
        ("ftp://127.0.0.1/v1", None, "no address"),
        ("127.0.0.1:80", None, "no address"),
        ("http:///v1", None, "no address"),
        ("http://127.0.0.1:port/v1", None, "no address"),
        ("http://[::1/v1", None, "no address"),
        ("http://127.0.0.1/v1?key=secret", None, "no address"),
        ("http://me:secret@127.0.0.1/v1", None, "holds a user or a password"),
        ("http://192.0.2.1/v1", "secret", "would travel readable"),
    ],
)
def test_addresses_that_are_refused(url: str, key: str | None, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as raised:
        json_post(url, key, 1.0)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "http://[::1]:1/v1", "http://localhost/v1"])
def test_a_key_may_stay_on_this_machine(url: str) -> None:
    assert callable(json_post(url, "secret", 1.0))


def run(server: Server, small_set: Path, out: Path, *more: object) -> int:
    words = ["run", "bundle", "--prompts", small_set, "--out", out, "--judge", "openai:tiny", *more]
    return main([str(word) for word in words])


def test_a_run_judged_by_an_endpoint(
    server: Server, small_set: Path, tmp_path: Path, runtime: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.setenv("HOLDFAST_TEST_KEY", KEY)
    options = ("--judge-url", f"{server.url}/", "--judge-key-env", "HOLDFAST_TEST_KEY", "--judge-timeout-s", 20)
    assert run(server, small_set, tmp_path / "r.json", *options) == 0

    report = read_json(tmp_path / "r.json")
    assert report["judge"] == f"openai:tiny@{TEMPLATE_DIGEST}"
    assert {item["judge"] for depth in report["depths"] for item in depth["items"]} == {report["judge"]}
    assert report["depths"][1]["counts"]["harmful"]["refusal"] == 3
    # Both depths, and the one that was asked before the first answer.
    assert len(server.seen) == 2 * 12 + 1
    said = (tmp_path / "r.json").read_text() + "".join(capfd.readouterr())
    assert [word for word in (KEY, "127.0.0.1", "secret", "sorry") if word in said] == []


def test_a_wrong_key_is_found_before_the_first_answer(
    server: Server, small_set: Path, tmp_path: Path, runtime: Any, capsys: Any
) -> None:
    server.plan = [401]
    assert run(server, small_set, tmp_path / "r.json", "--judge-url", server.url) == 5
    assert "status 401" in capsys.readouterr().err
    assert runtime.seen == [] and not (tmp_path / "r.json").exists()
