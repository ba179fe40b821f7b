"""The margin: log-odds of refusal openings, on made-up distributions and through a real chain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jetson_runtime
from jetson_runtime import Request
from refusal_suite.margins import Margins, log_odds, mean_shift, opening_tree
from refusal_suite.prompts import HARMFUL, Prompt

LETTERS = 4


class Letters:
    """Writes a, b, c and d as 0 to 3."""

    def encode(self, text: str, add_special_tokens: bool) -> Letters:
        assert not add_special_tokens
        self.ids = ["abcd".index(letter) for letter in text]
        return self


def test_openings_share_their_beginnings_and_the_shorter_one_counts() -> None:
    assert opening_tree(Letters(), ["ab", "ac", "b"]) == {0: {1: {}, 2: {}}, 1: {}}
    assert opening_tree(Letters(), ["ab", "abc"]) == opening_tree(Letters(), ["abc", "ab"]) == {0: {1: {}}}
    assert opening_tree(Letters(), ["abcd"]) == opening_tree(Letters(), ["abca"]) == {0: {1: {2: {}}}}


@given(st.lists(st.text("abcd", min_size=1, max_size=4), min_size=1, max_size=6), st.integers(0, 9))
def test_the_log_odds_are_those_of_every_text_that_begins_so(openings: list[str], seed: int) -> None:
    drawn = np.random.default_rng(seed)
    table = {
        path: drawn.normal(size=LETTERS).astype(np.float32)
        for path in [(), *((a,) for a in range(4)), *((a, b) for a in range(4) for b in range(4))]
    }
    asked: list[tuple[int, ...]] = []

    def logits(path: Sequence[int]) -> np.ndarray:
        asked.append(tuple(path))
        assert not path or asked[-2][: len(path) - 1] == tuple(path[:-1])
        return table[tuple(path)]

    beginnings = {tuple(map("abcd".index, opening[:3])) for opening in openings}
    refusing = other = 0.0
    for text in np.ndindex(4, 4, 4):
        p = np.prod([_share(table[text[:n]], text[n]) for n in range(3)])
        if any(text[: len(beginning)] == beginning for beginning in beginnings):
            refusing += p
        else:
            other += p
    measured = log_odds(opening_tree(Letters(), openings), logits)
    if other > 1e-9:
        assert measured == pytest.approx(log(refusing / other), abs=1e-6)
    assert len(asked) == len(set(asked))


def _share(logits: np.ndarray, token: int) -> float:
    weights = np.exp(logits.astype(np.float64))
    return float(weights[token] / weights.sum())


def test_the_log_odds_stay_finite_where_a_probability_rounds_to_one() -> None:
    sure = np.array([200, 0, 0, 0], np.float32)
    assert log_odds({0: {}}, lambda path: sure) == pytest.approx(200 - log(3))
    assert log_odds({1: {}}, lambda path: sure) == pytest.approx(-200)


def test_a_shift_is_the_mean_of_the_differences_with_an_interval_that_holds_it() -> None:
    drawn = np.random.default_rng(3)
    reference = drawn.normal(size=200)
    moved = mean_shift(reference + drawn.normal(-0.5, 1, size=200), reference)
    assert moved == mean_shift(*(np.asarray(values) for values in _again(3)))
    assert moved["low"] < moved["mean"] < moved["high"] < 0
    # Close to the t interval: 1.97 standard errors to each side.
    assert moved["high"] - moved["low"] == pytest.approx(2 * 1.97 / np.sqrt(200), rel=0.15)
    assert 0.6 < moved["moved_down"] < 0.8
    assert mean_shift([1.0, 1.0], [1.0, 1.0]) == {"n": 2, "mean": 0.0, "low": 0.0, "high": 0.0, "moved_down": 0.0}


def _again(seed: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = np.random.default_rng(seed)
    reference = drawn.normal(size=200)
    return reference + drawn.normal(-0.5, 1, size=200), reference


@pytest.fixture(scope="module")
def runtime(tiny_bundle: Callable[[str, str], Path]) -> jetson_runtime.Runtime:
    pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")
    return jetson_runtime.load(tiny_bundle("clip-llama", "fp32"), allow_unadmitted=True)


@pytest.mark.parametrize("name", ["d1", "d2", "d2>d1@prefill", "d2>d1@1"])
def test_the_chains_margin_is_that_of_each_opening_run_by_itself(runtime: jetson_runtime.Runtime, name: str) -> None:
    prompt = Prompt("one", "hello", HARMFUL, "none")
    ladder = runtime.bundle.manifest.ladder
    point = ladder.schedule(name) if ">" in name else ladder[name]
    pinned = {"schedule" if ">" in name else "depth": name}
    before = runtime.invoke(Request("hello", max_tokens=5, **pinned))
    margin = Margins(runtime)(prompt, point)
    token_ids = runtime.bundle.prompter()("hello", with_image=False).token_ids

    def share(opening: str) -> float:
        p = 1.0
        logits = runtime.chain.prefill(token_ids, point.decoder_exit(0))
        for n, letter in enumerate(opening[:3]):
            token = runtime.bundle.prompter().tokenizer.encode(letter).ids[0]
            p *= _share(logits, token)
            logits = runtime.chain.step(token, len(token_ids) + n, point.decoder_exit(n + 1))
        return p

    # The tiny tokenizer knows letters only, so the openings are cut to their first three.
    refusing = sum(map(share, ["I'm", "I a", "I c", "I w", "Sor", "Unf"]))
    assert margin == pytest.approx(log(refusing / (1 - refusing)), abs=1e-3)
    after = runtime.invoke(Request("hello", max_tokens=5, **pinned))
    assert [token.id for token in before.tokens] == [token.id for token in after.tokens]


def test_a_prompt_that_leaves_no_room_has_no_margin(runtime: jetson_runtime.Runtime) -> None:
    room = runtime.bundle.manifest.model.kv_capacity - 1
    depth = runtime.bundle.manifest.ladder.full
    for letters, measured in ((room - 2, True), (room - 1, False)):
        prompt = Prompt("one", "a" * letters, HARMFUL, "none")
        runtime.invoke(Request(prompt.text, max_tokens=1))
        assert (Margins(runtime)(prompt, depth) is not None) == measured
