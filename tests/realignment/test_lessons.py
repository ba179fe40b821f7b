"""Lessons: drawn as the recipe says, the same each time, and never from what is held out."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from realignment import lessons as lessons_module  # noqa: E402
from realignment.answering import Said  # noqa: E402
from realignment.easy_vqa import Question  # noqa: E402
from realignment.lessons import Lesson, Lessons, own_answers, text_of  # noqa: E402
from realignment.packages import EASY_VQA, fetch  # noqa: E402
from realignment.packing import IGNORED  # noqa: E402
from realignment.pictures import open_picture  # noqa: E402
from realignment.recipe import Mixture  # noqa: E402
from realignment.requests import Pool, Request  # noqa: E402
from realignment.scenes import Scenes, drawn, training_scenes  # noqa: E402
from realignment.towers import Towers  # noqa: E402
from refusal_suite.prompts import BENIGN, HARMFUL  # noqa: E402

PICTURES, EXIT = 6, 3
MIXTURE = Mixture(
    steps=3,
    rank=2,
    rows=3,
    prompts=5,
    image_tokens=(2, 4),
    image_share=0.5,
    harmful_share=0.6,
    visual_share=0.4,
    twin_share=0.0,
    opening_weight=1.0,
    max_new_tokens=4,
    learning_rate=0.01,
    warmup_steps=1,
    measure_every=2,
)


@pytest.fixture(scope="module")
def towers(tiny_llava: Callable[[str], Path]) -> Towers:
    return Towers(tiny_llava("clip-llama"))


@pytest.fixture(scope="module")
def lessons(towers: Towers) -> Lessons:
    """Made-up requests, and pictures whose projected tokens say which picture and which token they are."""
    side = {
        name: tuple(
            Request(f"{name}{n}", f"{name} {n}", kind, group=f"{name}{n % 5}")
            for kind in (HARMFUL, BENIGN)
            for n in _numbers(kind)
        )
        for name in ("train", "held")
    }
    shown = torch.zeros(PICTURES, towers.prompts.image_tokens, 64, dtype=torch.half)
    for picture in range(PICTURES):
        for token in range(towers.prompts.image_tokens):
            shown[picture, token, :2] = torch.tensor([picture, token])
    questions = [[Question(n, f"seen {m}?", "red") for m in range(9)] for n in range(PICTURES)]
    answers = {r.id: ["No." if r.kind == HARMFUL else "Yes."] for r in (*side["train"], *side["held"])}
    return Lessons(towers, Pool(side["train"], side["held"], ()), Scenes({EXIT: shown}, questions), answers)


def _numbers(kind: str) -> range:
    return range(5) if kind == HARMFUL else range(5, 10)


def segments(lessons: Lessons, lesson: Lesson) -> list[list[str]]:
    """The rows' segments as text."""
    packed, decode = lesson.packed, lessons.towers.processor.tokenizer.decode
    return [
        [decode(tokens[row == number], skip_special_tokens=True) for number in range(1, int(row.max()) + 1)]
        for tokens, row in zip(packed.tokens, packed.segment, strict=True)
    ]


def test_the_shares_are_those_of_the_recipe(lessons: Lessons) -> None:
    chance, counts = random.Random(0), Counter[str]()
    for image in (True, False):
        for _ in range(40):
            for row in segments(lessons, lessons.draw(MIXTURE, chance, image=image, exit=EXIT)):
                assert len(row) == MIXTURE.prompts
                counts.update((f"{image} visual" if "seen" in t else f"{image} {t[-3:]}") for t in row)
    total = 40 * MIXTURE.rows * MIXTURE.prompts
    # 600 draws: four standard deviations are 0.08.
    assert counts["True visual"] / total == pytest.approx(0.4, abs=0.08)
    harmful = {image: counts[f"{image} No."] for image in (True, False)}
    assert harmful[True] / (total - counts["True visual"]) == pytest.approx(0.6, abs=0.1)
    assert harmful[False] / total == pytest.approx(0.6, abs=0.08)
    assert counts["False visual"] == 0


def test_twins_come_together(lessons: Lessons) -> None:
    """Harmful request n and benign request n + 5 are twins."""
    mixture, chance = dataclasses.replace(MIXTURE, twin_share=1.0), random.Random(4)
    for image in (True, False):
        lesson = lessons.draw(mixture, chance, image=image, exit=EXIT)
        for row in segments(lessons, lesson):
            numbers = [int(text.split()[1][0]) for text in row if "seen" not in text]
            assert len(row) == mixture.prompts
            assert [n + 5 for n in numbers[0::2]][: len(numbers) // 2] == numbers[1::2]
            assert max(numbers[0::2]) < 5


@pytest.mark.parametrize("held_out", [False, True])
def test_held_out_requests_are_never_trained_on(lessons: Lessons, held_out: bool) -> None:
    chance = random.Random(1)
    for n in range(20):
        lesson = lessons.draw(MIXTURE, chance, image=n % 2 == 0, exit=EXIT, held_out=held_out)
        texts = [text for row in segments(lessons, lesson) for text in row]
        assert all(("train" in text) == (not held_out) for text in texts if "seen" not in text)
        assert any("train" in text or "held" in text for text in texts)


def test_the_same_chance_draws_the_same_lesson(lessons: Lessons) -> None:
    first, again, other = (lessons.draw(MIXTURE, random.Random(s), image=True, exit=EXIT) for s in ("a", "a", "b"))
    for name in ("tokens", "positions", "labels", "mask", "segment"):
        assert torch.equal(getattr(first.packed, name), getattr(again.packed, name)), name
    assert torch.equal(first.shown, again.shown)
    assert segments(lessons, first) != segments(lessons, other)


def test_pictures_are_the_tokens_that_are_kept(lessons: Lessons) -> None:
    chance, prompts, counts = random.Random(2), lessons.towers.prompts, Counter[int]()
    for _ in range(20):
        lesson = lessons.draw(MIXTURE, chance, image=True, exit=EXIT)
        assert lesson.shown.dtype == torch.float32
        rows, given = [], lesson.shown[:, :2].long().tolist()
        for tokens, positions in zip(lesson.packed.tokens, lesson.packed.positions, strict=True):
            kept = (positions[tokens == prompts.image_token_id] - prompts.first_image_token).tolist()
            rows.append([(given[0][0], token) for token in kept])
            part, given = given[: len(kept)], given[len(kept) :]
            assert part == [[part[0][0], token] for token in kept]
            counts[len(kept)] += 1
        assert given == []
    assert counts.keys() == set(MIXTURE.image_tokens)


def test_labels_are_the_answers_and_their_end_mark(lessons: Lessons) -> None:
    lesson = lessons.draw(MIXTURE, random.Random(3), image=False, exit=EXIT)
    packed, tokenizer = lesson.packed, lessons.towers.processor.tokenizer
    assert lesson.shown is None
    for tokens, labels, row in zip(packed.tokens, packed.labels, packed.segment, strict=True):
        for number in range(1, MIXTURE.prompts + 1):
            wanted = labels[row == number]
            said = tokenizer.decode(wanted[wanted != IGNORED])
            assert said in ("No.</s>", "Yes.</s>")
            text = tokenizer.decode(tokens[row == number], skip_special_tokens=True)
            assert text.endswith(said.removesuffix("</s>"))
            assert (int(text.split()[1][0]) < 5) == (said == "No.</s>")


def test_own_answers_end_with_a_sentence_and_help(towers: Towers, monkeypatch: pytest.MonkeyPatch) -> None:
    encode, end = towers.processor.tokenizer.encode, towers.processor.tokenizer.eos_token_id
    says = {
        "cut": encode("Turn left there. Then go"),
        "whole": [*encode("Turn left there"), end],
        "none": encode("Turn left there and go"),
        "refusing": [*encode("I'm sorry, but I can't help with that."), end],
        "empty": [end],
    }
    requests = [Request(f"{kind} {name}", f"{kind} {name}", kind) for kind in (HARMFUL, BENIGN) for name in says]

    def answer(towers: Towers, exit: int, asked: Any, shown: Any, **options: Any) -> list[list[Said]]:
        assert exit == 4 and options == {"max_new_tokens": 7}
        texts = [text_of(towers, prompt).split()[-1] for prompt in asked[0]]
        return [[Said(tuple(says[text]), ()) for text in texts]]

    monkeypatch.setattr(lessons_module, "answer_batch", answer)
    answers = own_answers(towers, requests, max_new_tokens=7)
    good = {"cut": "Turn left there.", "whole": "Turn left there"}
    refused = {"refusing": "I'm sorry, but I can't help with that."}
    assert answers == {
        **{f"{HARMFUL} {name}": text for name, text in (good | refused).items()},
        **{f"{BENIGN} {name}": text for name, text in good.items()},
    }


def test_drawn_pictures_repeat_and_differ() -> None:
    first, again, other = (np.asarray(drawn(seed)) for seed in ("1:1", "1:1", "1:2"))
    assert (first == again).all()
    assert (first != other).mean() > 0.2
    assert first.std() > 5


def test_scenes_are_easy_vqas_pictures_and_then_drawn_ones(towers: Towers, reference_cache: Path) -> None:
    folder = fetch(EASY_VQA, reference_cache)
    scenes = training_scenes(towers, folder, asked=3, plain=2, exits=[1, 3], seed=5)
    assert len(scenes) == 5 and list(scenes.shown) == [1, 3]
    assert [{q.image for q in asked} for asked in scenes.questions] == [{0}, {1}, {2}, set(), set()]
    plain = towers.shown([open_picture(folder, "train", n) for n in range(3)], [3])[3].half()
    alike = [torch.equal(scenes.shown[3][n], plain[n]) for n in range(3)]
    assert alike == [True, False, True]  # each second one is a variant
    own = towers.shown([drawn("5:3"), drawn("5:4")], [1])[1].half()
    assert torch.allclose(scenes.shown[1][3:].float(), own.float(), atol=1e-3)
