"""Claims about the reference checkpoint: its projector sees, its adapters are small, what measures it is unseen."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks import realignment_after, realignment_unified  # noqa: F401 (each registers its claims)
from benchmarks.claims import Measured, claim
from benchmarks.measured import QUESTIONS
from benchmarks.workspace import checkpoint, sources
from realignment.assemble import DATA, STAGES, load_adapter
from realignment.requests import Pool, near, read_pool
from refusal_suite.prompts import Prompt, load_prompts

SEED = 0


@claim(
    "realignment.projector-sees",
    "easy-VQA test accuracy at exit 12 above the best answers without a picture",
    "points",
    ">=",
    10,
)
def projector_sees() -> Measured:
    """Blind: for each kind of question, the answer that is right most often; it can't be beaten without looking."""
    from realignment.easy_vqa import KINDS
    from realignment.packages import EASY_VQA, default_cache, fetch
    from realignment.projector import load_checkpoint
    from realignment.visual_questions import accuracy_by_exit, drawn_questions

    model, processor = load_checkpoint(checkpoint())
    data = fetch(EASY_VQA, default_cache())
    seen = accuracy_by_exit(model, processor, data, questions=QUESTIONS, seed=SEED, exits=[12])
    asked = drawn_questions(data, QUESTIONS, SEED).all
    blind = 0
    for kind in KINDS:
        answers = [question.answer for question in asked if question.kind == kind]
        blind += max(map(answers.count, set(answers)), default=0)
    right = sum(seen["exits"]["12"]["right"].values())
    details = {"asked": seen["asked"], "right": seen["exits"]["12"]["right"], "right_without_looking": blind}
    return Measured(100 * (right - blind) / len(asked), details)


@claim(
    "realignment.unseen",
    "prompts of holdfast-1 that a training or held-out request equals or nearly equals, and pictures of both",
    "prompts",
    "<=",
    0,
)
def unseen() -> Measured:
    """Pictures that measure: those of holdfast-1 and of the visual questions; against all of its training split.

    A stage that was trained on other sources than those compared counts too: it would not be known what it saw.
    """
    from realignment.lppo.plan import PpoPlan
    from realignment.supervised import RECIPE, read_stage

    common = read_stage(RECIPE, "ppo", PpoPlan).common
    pool = read_pool(common.sources, sources(), seed=common.seed)
    close = near_prompts(load_prompts().prompts, pool)
    trained, measuring = _training_pictures(common), _measuring_pictures()
    compared = set(_asked(pool.sources))
    other = [
        name for name in STAGES.values() if name and not compared.issuperset(_asked(load_adapter(name)[2]["sources"]))
    ]
    details = {
        "prompts_near_a_request": close,
        "stages_trained_on_other_sources": other,
        "requests": {"train": len(pool.train), "held_out": len(pool.held_out)},
        "sources": pool.sources,
        "pictures": {"training": len(trained), "measuring": len(measuring), "both": len(trained & measuring)},
    }
    return Measured(len(close) + len(other) + len(trained & measuring), details)


def _asked(listed: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(source["file"], source["sha256"], source["rows"]) for source in listed]


def near_prompts(prompts: Iterable[Prompt], pool: Pool) -> list[str]:
    """The ids of the prompts that equal or nearly equal a request, trained on or held out."""
    words = [frozenset(re.findall(r"\w+", request.text.lower())) for request in (*pool.train, *pool.held_out)]
    return [prompt.id for prompt in prompts if near(prompt.text, words)]


def _training_pictures(common: Any) -> set[str]:
    """All of easy-VQA's training split, which the projector saw, and the variants and drawn ones of the recipe."""
    from realignment.features import training_picture
    from realignment.packages import EASY_VQA, default_cache, fetch
    from realignment.scenes import drawn

    folder = fetch(EASY_VQA, default_cache())
    count = len(list((folder / "train" / "images").glob("*.png")))
    asked, plain, seed = common.asked_pictures, common.drawn_pictures, common.seed
    found = {_pixels(training_picture(folder, number, 0, seed)) for number in range(count)}
    found |= {_pixels(training_picture(folder, number, 2, seed)) for number in range(asked)}
    return found | {_pixels(drawn(f"{seed}:{number}")) for number in range(asked, asked + plain)}


def _measuring_pictures() -> set[str]:
    from jetson_runtime.image import open_image
    from realignment.measure import chosen_pictures
    from realignment.packages import EASY_VQA, default_cache, fetch
    from realignment.visual_questions import drawn_questions

    asked = drawn_questions(fetch(EASY_VQA, default_cache()), QUESTIONS, SEED).pictures()
    return {_pixels(picture) for picture in [*map(open_image, chosen_pictures(load_prompts())), *asked]}


def _pixels(picture: Any) -> str:
    return hashlib.sha256(str(picture.size).encode() + picture.convert("RGB").tobytes()).hexdigest()


@claim("realignment.adapters", "projector, adapters and heads in realignment/data", "MB", "<=", 25)
def adapters() -> Measured:
    """All weights that the repository holds."""
    sizes = {file.name: file.stat().st_size for file in sorted(DATA.glob("*.safetensors"))}
    return Measured(sum(sizes.values()) / 1e6, {"bytes": sizes})
