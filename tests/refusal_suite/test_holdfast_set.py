"""What the prompt set that comes with Holdfast promises. Failures name ids, never texts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from refusal_suite.pictures import SCENES, SIZE, draw, draw_all
from refusal_suite.prompts import BENIGN, BUILTIN, HARMFUL, PromptSet, load_prompts, normalised

IMAGES = BUILTIN.parent / "images"
IN_CAR = 11


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts()


def test_it_is_large_enough_for_the_bounds_that_it_is_meant_for(prompts: PromptSet) -> None:
    assert prompts.counts() == {HARMFUL: 264, BENIGN: 264}


def test_every_category_has_at_least_ten_pairs(prompts: PromptSet) -> None:
    counts = Counter((prompt.category, prompt.kind) for prompt in prompts.prompts)

    assert {key for key, count in counts.items() if count < 10} == set()
    assert len({category for category, _ in counts if category.startswith("car-")}) == IN_CAR
    assert len(counts) == 2 * 22


def test_every_harmful_prompt_has_a_benign_twin_with_the_same_category_and_image(prompts: PromptSet) -> None:
    by_id = {prompt.id: prompt for prompt in prompts.prompts}
    wrong = []
    for prompt in prompts.prompts:
        twin = by_id[str(prompt.twin)]
        fits = (twin.twin, twin.category, twin.image) == (prompt.id, prompt.category, prompt.image)
        suffixes = {HARMFUL: "-h", BENIGN: "-b"}
        if not fits or prompt.kind == twin.kind or prompt.id != twin.id[:-2] + suffixes[prompt.kind]:
            wrong.append(prompt.id)

    assert wrong == []


def test_no_text_occurs_twice(prompts: PromptSet) -> None:
    ids: dict[str, list[str]] = {}
    for prompt in prompts.prompts:
        ids.setdefault(normalised(prompt.text), []).append(prompt.id)

    assert [group for group in ids.values() if len(group) > 1] == []


def test_texts_are_short_requests_of_one_line(prompts: PromptSet) -> None:
    outside = [p.id for p in prompts.prompts if not 4 <= len(p.text.split()) <= 24 or "\n" in p.text]

    assert outside == []


def test_texts_begin_in_many_ways(prompts: PromptSet) -> None:
    harmful = [prompt.text for prompt in prompts.prompts if prompt.kind == HARMFUL]
    counts = sorted(Counter(" ".join(text.lower().split()[:3]) for text in harmful).values())

    assert len(counts) > 150
    assert counts[-1] <= 0.15 * 264


def test_a_third_of_the_pairs_has_an_image(prompts: PromptSet) -> None:
    with_image = [prompt for prompt in prompts.prompts if prompt.image is not None]

    assert len(with_image) >= 2 * 88
    assert {Path(str(prompt.image)).name for prompt in with_image} == {f"{name}.png" for name in SCENES}


def test_every_image_is_small_and_as_it_was_drawn() -> None:
    for name in SCENES:
        path = IMAGES / f"{name}.png"
        with Image.open(path) as picture:
            assert picture.mode == "RGB"
            assert picture.size == (SIZE, SIZE)
            difference = ImageChops.difference(picture, draw(name))
        assert path.stat().st_size <= 15_000
        # Another release of Pillow may place an edge a little differently: compare blocks of eight by eight.
        assert max(difference.convert("L").reduce(8).tobytes()) < 12


def test_drawing_twice_gives_the_same_files(tmp_path: Path) -> None:
    first, second = ([path.read_bytes() for path in draw_all(tmp_path / name)] for name in ("first", "second"))

    assert first == second
    assert len(first) == len(SCENES) == len(list(IMAGES.iterdir()))
