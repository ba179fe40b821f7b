"""load, describe, invoke, cancel, unload: on ONNX Runtime with a tiny model, and in virtual time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from profiles import made_up_profile

import jetson_runtime
from jetson_runtime import Budget, Request, Token
from jetson_runtime.backends.simulated import ANSWER
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import BackendError, BudgetError, BundleError, InputError
from jetson_runtime.files import write_json


@pytest.fixture(scope="module")
def path(tiny_bundle: Callable[[str, str], Path]) -> Path:
    return tiny_bundle("clip-llama", "fp32")


@pytest.fixture
def profile(path: Path, tmp_path: Path) -> Path:
    write_json(tmp_path / "profile.json", made_up_profile(open_bundle(path)).to_dict())
    return tmp_path / "profile.json"


@pytest.fixture
def runtime(path: Path, profile: Path) -> jetson_runtime.Runtime:
    return jetson_runtime.load(path, profile=profile, allow_unadmitted=True)


@pytest.fixture
def simulated(path: Path, profile: Path) -> jetson_runtime.Runtime:
    return jetson_runtime.load(path, backend="simulated", profile=profile, allow_unadmitted=True)


def image_bytes() -> bytes:
    from engine_builder.reference import drawn_picture

    return drawn_picture()


def test_tokens_stream_as_they_are_made_and_the_answer_repeats_them(runtime: jetson_runtime.Runtime) -> None:
    streamed: list[Token] = []
    answer = runtime.invoke(Request("hello", max_tokens=6), on_token=streamed.append)
    assert tuple(streamed) == answer.tokens
    assert 1 <= len(answer.tokens) <= 6
    assert answer.finish_reason in ("stop", "length")
    assert answer.depth == runtime.bundle.manifest.ladder.full
    assert {token.depth for token in answer.tokens} == {answer.depth.name}
    times = [token.at_ms for token in answer.tokens]
    assert times == sorted(times)
    assert answer.first_token_ms == times[0]


def test_the_same_request_gives_the_same_answer_whatever_was_asked_before(runtime: jetson_runtime.Runtime) -> None:
    first = runtime.invoke(Request("hello", image=image_bytes(), max_tokens=8))
    runtime.invoke(Request("something else that is longer", max_tokens=8, temperature=1.0, seed=3))
    again = runtime.invoke(Request("hello", image=image_bytes(), max_tokens=8))
    assert [token.id for token in first.tokens] == [token.id for token in again.tokens]


def test_a_picture_changes_the_logits_and_so_does_the_vision_exit(runtime: jetson_runtime.Runtime) -> None:
    prompter, preprocess = runtime.bundle.prompter(), runtime.bundle.preprocessing()
    prompt = prompter("hello", with_image=True)
    from jetson_runtime.image import open_image

    pixels = preprocess(open_image(image_bytes()))
    seen = [
        runtime.chain.prefill(prompt.token_ids, 4, pixels=picture, image_at=prompt.image_at, vision_exit=exit)
        for picture, exit in ((pixels, 3), (pixels, 2), (-pixels, 3))
    ]
    assert abs(seen[0] - seen[1]).max() > 1e-4
    assert abs(seen[0] - seen[2]).max() > 1e-4


def test_leaving_earlier_in_an_answer_is_the_same_as_having_been_shallow(runtime: jetson_runtime.Runtime) -> None:
    prompt = runtime.bundle.prompter()("hello", with_image=False).token_ids
    chain = runtime.chain
    chain.prefill(prompt, 4)
    switched = chain.step(7, len(prompt), 2)
    chain.prefill(prompt, 2)
    shallow = chain.step(7, len(prompt), 2)
    assert (switched == shallow).all()


def test_a_pinned_depth_is_taken_and_an_unknown_one_is_refused(runtime: jetson_runtime.Runtime) -> None:
    assert runtime.invoke(Request("hello", depth="d1", max_tokens=2)).depth.name == "d1"
    with pytest.raises(InputError, match="d1, d2"):
        runtime.invoke(Request("hello", depth="d9"))


def test_cancel_ends_the_answer_after_the_token_in_progress(runtime: jetson_runtime.Runtime) -> None:
    seen: list[Token] = []

    def stop_at_two(token: Token) -> None:
        seen.append(token)
        if len(seen) == 2:
            runtime.cancel()

    answer = runtime.invoke(Request("hello", max_tokens=20, temperature=1.0, seed=1), on_token=stop_at_two)
    assert answer.finish_reason == "cancelled"
    assert len(answer.tokens) == 2
    assert runtime.invoke(Request("hello", max_tokens=1)).finish_reason in ("stop", "length")


def test_two_threads_are_served_one_after_the_other(runtime: jetson_runtime.Runtime) -> None:
    alone = runtime.invoke(Request("hello", max_tokens=6))
    answers: list[jetson_runtime.Answer] = []
    work = [
        threading.Thread(target=lambda: answers.append(runtime.invoke(Request("hello", max_tokens=6))))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert [[t.id for t in answer.tokens] for answer in answers] == [[t.id for t in alone.tokens]] * 4


def test_after_unload_nothing_runs(runtime: jetson_runtime.Runtime) -> None:
    with runtime:
        pass
    with pytest.raises(BackendError, match="unloaded"):
        runtime.invoke(Request("hello"))


def test_a_prompt_fills_the_cache_to_the_last_entry_but_not_beyond(runtime: jetson_runtime.Runtime) -> None:
    prompter, capacity = runtime.bundle.prompter(), runtime.bundle.manifest.model.kv_capacity
    text = "a"
    while len(prompter(text + " a", with_image=False).token_ids) <= capacity:
        text += " a"
    used = len(prompter(text, with_image=False).token_ids)
    answer = runtime.invoke(Request(text, max_tokens=99, temperature=5.0, seed=0))
    assert len(answer.tokens) <= capacity - used + 1
    with pytest.raises(InputError, match="longer than the KV cache"):
        runtime.invoke(Request(text + " a" * capacity))


def test_in_virtual_time_the_prediction_is_what_happens(simulated: jetson_runtime.Runtime) -> None:
    request = Request("hello there you", max_tokens=4)
    answer = simulated.invoke(request, Budget(answer_ms=1000))
    assert answer.depth.name == "d2"
    assert answer.predicted_ms == pytest.approx(4.0 + 3 * 2.0)
    assert answer.elapsed_ms == pytest.approx(answer.predicted_ms, rel=0.3)
    assert ANSWER.startswith(answer.text[:4])


def test_less_time_gives_a_shallower_depth_and_then_an_error_with_the_numbers(
    simulated: jetson_runtime.Runtime,
) -> None:
    request = Request("hello there you", max_tokens=4)
    assert simulated.invoke(request, Budget(answer_ms=9)).depth.name == "d1"
    with pytest.raises(BudgetError) as caught:
        simulated.invoke(request, Budget(answer_ms=4))
    assert caught.value.budget_ms == 4
    assert caught.value.predicted_ms == pytest.approx(5.0)


def test_first_and_per_token_budgets_are_kept_separately(simulated: jetson_runtime.Runtime) -> None:
    request = Request("hello there you", max_tokens=4)
    assert simulated.invoke(request, Budget(first_token_ms=100, per_token_ms=2.5)).depth.name == "d2"
    assert simulated.invoke(request, Budget(first_token_ms=100, per_token_ms=1.5)).depth.name == "d1"
    assert simulated.invoke(request, Budget(first_token_ms=3, per_token_ms=50)).depth.name == "d1"


def test_an_answer_that_runs_late_ends_before_its_deadline(path: Path, profile: Path) -> None:
    from jetson_runtime.backends.simulated import SimulatedBackend

    runtime = jetson_runtime.load(path, backend="simulated", profile=profile, allow_unadmitted=True)
    bundle = open_bundle(path)
    slow = SimulatedBackend(bundle, made_up_profile(bundle), slowdown=1.5)
    runtime.chain.backend = runtime._backend = slow
    answer = runtime.invoke(Request("hello there you", max_tokens=9), Budget(answer_ms=22))
    assert answer.finish_reason == "deadline"
    assert 0 < len(answer.tokens) < 9
    assert answer.elapsed_ms <= 22


def test_a_budget_needs_a_profile_of_these_engines(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="engine-calibrate"):
        jetson_runtime.load(path, allow_unadmitted=True).invoke(Request("hello"), Budget(answer_ms=100))
    other = made_up_profile(open_bundle(path)).to_dict() | {"engines_digest": "0" * 64}
    write_json(tmp_path / "other.json", other)
    with pytest.raises(BundleError, match="other engines"):
        jetson_runtime.load(path, profile=tmp_path / "other.json", allow_unadmitted=True)


def test_describe_names_what_is_loaded(runtime: jetson_runtime.Runtime) -> None:
    facts = runtime.describe()
    assert facts["bundle_digest"] == runtime.bundle.digest
    assert [depth["name"] for depth in facts["ladder"]] == ["d1", "d2"]
    assert facts["backend"] == "onnxruntime"


@pytest.mark.parametrize("request_", [Request("x", max_tokens=0), Request("x", temperature=-1), Request("x", top_p=0)])
def test_impossible_requests_are_refused(runtime: jetson_runtime.Runtime, request_: Request) -> None:
    with pytest.raises(InputError):
        runtime.invoke(request_)


def test_an_unknown_backend_is_answered_with_the_known(path: Path) -> None:
    with pytest.raises(BackendError, match="onnxruntime, simulated"):
        jetson_runtime.load(path, backend="other", allow_unadmitted=True)


def test_exports_are_complete() -> None:
    assert all(hasattr(jetson_runtime, name) for name in jetson_runtime.__all__)
