"""Training requests: apart from everything that measures, each once, and never shown in an error."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jetson_runtime.errors import ConfigError, InputError
from jetson_runtime.files import read_json, sha256_file
from realignment.requests import FRESH, OWN, VALIDATION, Pool, Request, near, read_pool, refusals
from refusal_suite.judge import COMPLIANCE, REFUSAL, judge
from refusal_suite.prompts import BENIGN, BUILTIN, HARMFUL, load_prompts, normalised

SECRET = "words that must not be shown anywhere"


def words(text: str) -> frozenset[str]:
    return frozenset(normalised(text).split())


def write(folder: Path, rows: list[dict[str, Any]], name: str = "more.jsonl") -> dict[str, Any]:
    """A source of a recipe."""
    (folder / name).write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return {"file": name, "kind": BENIGN}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return read_pool([], None)


def test_our_own_requests_are_unique_and_rightly_answered(pool: Pool) -> None:
    own = [*pool.train, *pool.held_out]
    assert len(own) == sum(len(load_prompts(file).prompts) for file in (*OWN, FRESH)) >= 1800
    assert all(source["duplicates_removed"] == source["near_evaluation_removed"] == 0 for source in pool.sources)
    assert len({normalised(request.text) for request in own}) == len({request.id for request in own}) == len(own)
    assert {request.kind for request in own if request.answer} == {BENIGN}
    wrong = [r.id for r in own if r.answer and judge(r.answer or "", r.text).label != COMPLIANCE]
    assert wrong == []


def test_twins_with_the_same_words_are_kept_for_l_ppo(pool: Pool) -> None:
    fresh = {prompt.id for prompt in load_prompts(FRESH).prompts}
    assert fresh <= {request.id for request in pool.held_out}
    pairs = [pair for pair in pool.pairs(held_out=True) if pair[0].id in fresh]
    assert 2 * len(pairs) == len(fresh) >= 800
    # Told apart by more than a word that only one of them has.
    assert all(words(harmful.text) & words(benign.text) for harmful, benign in pairs)


def test_validation_twins_are_in_no_stage_and_near_no_test_prompt(pool: Pool) -> None:
    prompts = load_prompts(VALIDATION).prompts
    assert len(prompts) == len({normalised(prompt.text) for prompt in prompts}) >= 300
    assert all(prompt.twin for prompt in prompts)
    others = [words(request.text) for request in (*pool.train, *pool.held_out, *load_prompts(BUILTIN).prompts)]
    assert [prompt.id for prompt in prompts if near(prompt.text, others)] == []


def test_refusals_refuse() -> None:
    texts = refusals()
    assert len({normalised(text) for text in texts}) == len(texts) >= 20
    assert [number for number, text in enumerate(texts) if judge(text).label != REFUSAL] == []


def test_nothing_that_measures_is_trained_on_or_held_out(pool: Pool) -> None:
    measured = [words(prompt.text) for prompt in load_prompts().prompts]
    close = []
    for request in (*pool.train, *pool.held_out):
        mine = words(request.text)
        close += [request.id for other in measured if len(mine & other) >= 0.7 * len(mine | other)]
    assert close == []
    assert not {normalised(p.text) for p in load_prompts().prompts} & {normalised(r.text) for r in pool.train}


def test_twins_stay_on_one_side_and_no_id_is_in_two_places(pool: Pool) -> None:
    sides = [{request.id for request in side} for side in (pool.train, pool.held_out)]
    assert len(sides[0]) == len(pool.train) and len(sides[1]) == len(pool.held_out)
    assert not sides[0] & sides[1]
    twins = [(p.id, p.twin) for file in OWN for p in load_prompts(file).prompts if p.twin]
    assert len(twins) > 500
    assert [a for a, b in twins if any((a in side) != (b in side) for side in sides)] == []
    fresh = {prompt.id for prompt in load_prompts(FRESH).prompts}
    assert 0.05 < len(sides[1] - fresh) / (len(sides[0]) + len(sides[1] - fresh)) < 0.15
    assert {r.kind for r in pool.held_out} == {r.kind for r in pool.train} == {HARMFUL, BENIGN}
    assert len(pool.of(HARMFUL)) + len(pool.of(BENIGN)) == len(pool.train)
    assert {r.id for r in pool.of(BENIGN, held_out=True)} <= sides[1]


def test_near_duplicates_and_repetitions_are_removed_and_counted(pool: Pool, tmp_path: Path) -> None:
    prompt = next(p for p in load_prompts().prompts if p.kind == BENIGN and len(words(p.text)) > 8)
    fresh = "please recite the seventh stanza of some lullaby"
    texts = [prompt.text, f"{prompt.text.upper()} !!", f"{prompt.text} kindly", fresh, f"{fresh.title()}?", "zig zag"]
    entry = write(tmp_path, [{"text": text} for text in texts])
    more = read_pool([entry], tmp_path)
    assert more.sources[-2] == {
        "duplicates_removed": 1,
        "file": "more.jsonl",
        "near_evaluation_removed": 3,
        "rows": 2,
        "sha256": sha256_file(tmp_path / "more.jsonl"),
    }
    added = {r.id for r in (*more.train, *more.held_out)} - {r.id for r in (*pool.train, *pool.held_out)}
    assert added == {"more_4", "more_6"}
    # What one source asks, the next ones need not ask again.
    again = read_pool([entry, {**write(tmp_path, [{"text": fresh}], "again.jsonl")}], tmp_path)
    assert again.sources[-2]["duplicates_removed"] == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("G, f e d c b A", True),
        ("a b c d e f g h i j", True),  # 7 of 10
        ("a b c d e f g h i j k", False),  # 7 of 11
        ("a b c d e f", True),  # 6 of 7
        ("a b c d x y z", False),
        ("", False),
        ("!?", False),
    ],
)
def test_near_is_seven_tenths_of_the_words(text: str, expected: bool) -> None:
    assert near(text, [frozenset("xyz"), frozenset("abcdefg")]) is expected


def test_a_limit_draws_from_the_seed(tmp_path: Path) -> None:
    entry = {**write(tmp_path, [{"text": f"number{n} word{n}"} for n in range(40)]), "limit": 5}

    def drawn(seed: int) -> set[str]:
        both = read_pool([entry], tmp_path, evaluation=(), seed=seed)
        return {r.id for r in (*both.train, *both.held_out) if r.id.startswith("more")}

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(drawn(1)) == 5


@pytest.mark.parametrize(
    ("rows", "changes", "parts"),
    [
        ([{"text": SECRET}], {"file": "none.csv"}, ["'none.csv' is not there", "--data"]),
        ([{"text": SECRET}], {"sha256": "0" * 64}, ["not the file that the recipe names", "0" * 64]),
        ([{"words": SECRET}], {}, ["more.jsonl", "columns fit no known prompt format"]),
        ([{"text": SECRET}], {"kind": None}, ["row 1", "neither harmful nor benign"]),
        ([{"text": SECRET, "id": "train-weapons-001-h"}], {}, ["1 ids in two files", "train-weapons-001-h"]),
        ([{"text": SECRET, "id": "a"}, {"text": f"{SECRET} too", "id": "a"}], {}, ["'a' occurs twice"]),
        ([{"text": SECRET, "answer": SECRET}], {"kind": "evil"}, ["unknown kind", "evil"]),
    ],
)
def test_bad_data_are_told_without_their_texts(
    rows: list[dict[str, Any]], changes: dict[str, Any], parts: list[str], tmp_path: Path
) -> None:
    entry = {**write(tmp_path, rows), **changes}
    with pytest.raises((InputError, ConfigError)) as caught:
        read_pool([entry], tmp_path, evaluation=())
    assert [part for part in parts if part not in str(caught.value)] == []
    assert SECRET not in str(caught.value)
    assert isinstance(caught.value, ConfigError if changes.get("kind") == "evil" else InputError)


def test_sources_without_a_folder_are_told() -> None:
    with pytest.raises(InputError, match="no --data"):
        read_pool([{"file": "more.jsonl", "kind": BENIGN}], None, evaluation=())


def test_no_text_is_shown_by_what_holds_it() -> None:
    assert SECRET not in repr(Pool((Request("a", SECRET, BENIGN, SECRET),), (), ()))


def test_answers_of_a_source_are_kept(tmp_path: Path) -> None:
    entry = write(tmp_path, [{"id": "a", "text": "one two", "answer": "Three."}, {"id": "b", "text": "four five"}])
    both = read_pool([entry], tmp_path, evaluation=())
    given = {r.id: (r.kind, r.answer) for r in (*both.train, *both.held_out)}
    assert (given["a"], given["b"]) == ((BENIGN, "Three."), (BENIGN, None))


def test_the_refusals_file_holds_nothing_else() -> None:
    file = OWN[0].parent / "refusals.json"
    assert list(read_json(file)) == ["refusals"]
    assert Counter(map(type, read_json(file)["refusals"])).keys() == {str}
