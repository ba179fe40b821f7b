"""The supervised losses against one plain pass per example, and whether following them helps."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from jetson_runtime.errors import TrainingError  # noqa: E402
from realignment.adapters import inject  # noqa: E402
from realignment.answers import embedded  # noqa: E402
from realignment.easy_vqa import Question  # noqa: E402
from realignment.lessons import Lesson, Lessons  # noqa: E402
from realignment.packing import IGNORED  # noqa: E402
from realignment.recipe import Exits, Mixture  # noqa: E402
from realignment.requests import Pool, Request  # noqa: E402
from realignment.scenes import Scenes  # noqa: E402
from realignment.towers import Towers  # noqa: E402
from realignment.training import CURVE, Training, state_file  # noqa: E402
from realignment.tuning import Align, ExitTuning  # noqa: E402
from refusal_suite.prompts import BENIGN, HARMFUL  # noqa: E402

MIXTURE = Mixture(
    steps=25,
    rank=4,
    rows=2,
    prompts=3,
    image_tokens=(2, 4),
    image_share=0.5,
    harmful_share=0.5,
    visual_share=0.3,
    twin_share=0.5,
    opening_weight=4.0,
    max_new_tokens=4,
    learning_rate=0.02,
    warmup_steps=2,
    measure_every=25,
)
EXITS = Exits(**dataclasses.asdict(MIXTURE), exits=(1, 2, 3), exits_per_step=2, scale=0.5)


@dataclasses.dataclass(frozen=True)
class Limits:
    max_minutes: float = 60.0
    save_minutes: float = 60.0
    sha256: str = "a" * 64


@pytest.fixture
def lessons(tiny_llava: Callable[[str], Path]) -> Lessons:
    towers = Towers(tiny_llava("clip-llama"))
    sides = [
        tuple(
            Request(f"{side}{kind}{n}", f"{kind} {n}", kind, group=f"{n}") for kind in (HARMFUL, BENIGN) for n in part
        )
        for side, part in (("train", range(4)), ("held", range(4, 6)))
    ]
    answers = {r.id: ["Sorry, no."] if r.kind == HARMFUL else ["Yes", "Of course."] for r in (*sides[0], *sides[1])}
    shown = torch.randn(3, towers.prompts.image_tokens, 64, generator=torch.Generator().manual_seed(0)).half()
    questions = [[Question(n, "what color is the shape?", "red")] for n in range(3)]
    return Lessons(towers, Pool(*sides, ()), Scenes({3: shown}, questions), answers)


def examples(lesson: Lesson, towers: Towers) -> Iterator[tuple[Any, Any, Any]]:
    """(vectors, positions, labels) of each segment with its prefix, as a sequence of its own."""
    packed, image = lesson.packed, towers.model.config.image_token_id
    given = lesson.shown
    for tokens, positions, labels, row in zip(
        packed.tokens, packed.positions, packed.labels, packed.segment, strict=True
    ):
        count = int((tokens == image).sum())
        mine, given = (None, None) if given is None else (given[:count], given[count:])
        for number in range(1, int(row.max()) + 1):
            part = (row == 0) | (row == number)
            yield embedded(towers.model, tokens[part][None], mine), positions[part][None], labels[part]


def plain(lesson: Lesson, towers: Towers, exit: int, weight: float) -> tuple[Any, Any]:
    """(cross-entropy, logits) at an exit, example by example; `weight` is that of an answer's first three tokens."""
    losses, weights, said = [], [], []
    for vectors, positions, labels in examples(lesson, towers):
        # An attention mask, because gaps in the positions would otherwise be taken for borders between sequences.
        mask = torch.ones(positions.shape, dtype=torch.long)
        out = towers.decoder(exit)(inputs_embeds=vectors, position_ids=positions, attention_mask=mask)
        logits = towers.model.lm_head(out.last_hidden_state)[0]
        wanted = [place for place, label in enumerate(labels.tolist()) if label != IGNORED]
        for number, place in enumerate(wanted):
            losses.append(-logits[place].log_softmax(-1)[labels[place]])
            weights.append(weight if number < 3 else 1.0)
            said.append(logits[place])
    weighed = torch.tensor(weights)
    return (torch.stack(losses) * weighed).sum() / weighed.sum(), torch.stack(said)


def seen(stage: Any, monkeypatch: pytest.MonkeyPatch) -> list[Lesson]:
    """The lessons that a stage draws from now on."""
    drawn: list[Lesson] = []
    draw = Lessons.draw

    def remember(*args: Any, **options: Any) -> Lesson:
        drawn.append(draw(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(Lessons, "draw", remember)
    return drawn


@pytest.mark.parametrize("image", [0.0, 1.0], ids=["text", "picture"])
def test_align_is_the_plain_cross_entropy(image: float, lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Align(dataclasses.replace(MIXTURE, image_share=image), lessons, {}, 1)
    drawn = seen(stage, monkeypatch)
    loss = float(stage.loss(3))
    assert (drawn[0].shown is None) == (image == 0)
    assert loss == pytest.approx(float(plain(drawn[0], lessons.towers, 4, 4.0)[0]), abs=1e-5)
    assert loss == float(stage.loss(3)) != float(stage.loss(4))
    drawn.clear()
    held = stage.held_out()
    assert list(held) == list(stage.measures) == ["text", "picture"]
    assert [lesson.shown is None for lesson in drawn] == [True, False]
    for value, lesson in zip(held.values(), drawn, strict=True):
        assert value == pytest.approx(float(plain(lesson, lessons.towers, 4, 1.0)[0]), abs=1e-5)


@pytest.mark.parametrize("image", [0.0, 1.0], ids=["text", "picture"])
def test_exits_weigh_cross_entropy_and_divergence(
    image: float, lessons: Lessons, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = dataclasses.replace(EXITS, image_share=image)
    stage = ExitTuning(plan, lessons, {}, 1)
    with torch.no_grad():
        # A final norm that does something, so that an early loss without it would differ.
        norm = lessons.towers.model.model.language_model.norm.weight
        norm.copy_(torch.rand(norm.shape, generator=torch.Generator().manual_seed(1)) * 3)
    drawn = seen(stage, monkeypatch)
    loss = float(stage.loss(3))
    last, teacher = plain(drawn[0], lessons.towers, 4, 4.0)
    early = {}
    for exit in plan.exits:
        entropy, logits = plain(drawn[0], lessons.towers, exit, 4.0)
        chances = teacher.softmax(-1)
        early[exit] = float(entropy + (chances * (chances.log() - logits.log_softmax(-1))).sum(-1).mean())
    possible = [
        (plan.scale * (early[a] + early[b]) / 2 + float(last)) / (1 + plan.scale) for a, b in ((1, 2), (1, 3), (2, 3))
    ]
    assert min(abs(loss - value) for value in possible) < 1e-5
    drawn.clear()
    held = stage.held_out()
    assert list(held) == list(stage.measures) == ["exit 1", "exit 2", "exit 3", "full depth"]
    for exit, name in zip((1, 2, 3, 4), held, strict=True):
        expected = sum(float(plain(lesson, lessons.towers, exit, 1.0)[0]) for lesson in drawn) / 2
        assert held[name] == pytest.approx(expected, abs=1e-5), name


def test_full_depth_teaches_without_learning_from_it(lessons: Lessons) -> None:
    """With a scale that drowns everything else, blocks after the exit get no gradient but full depth's own."""
    plan = dataclasses.replace(EXITS, exits=(2,), exits_per_step=1, scale=1e30)
    language = lessons.towers.model.model.language_model.requires_grad_(True)
    ExitTuning(plan, lessons, {}, 1).loss(0).backward()
    assert float(language.layers[1].mlp.up_proj.weight.grad.abs().max()) > 1e-6
    assert float(language.layers[2].mlp.up_proj.weight.grad.abs().max()) < 1e-12


def test_exits_rotate(lessons: Lessons, monkeypatch: pytest.MonkeyPatch) -> None:
    from realignment import tuning

    asked = []

    def losses(lessons: Any, lesson: Any, exits: Any, weight: float, distil: bool) -> Any:
        asked.append(tuple(exits))
        return torch.zeros(()), dict.fromkeys(exits, torch.zeros(()))

    monkeypatch.setattr(tuning, "_losses", losses)
    for step in range(12):
        ExitTuning(EXITS, lessons, {}, 1).loss(step)
    assert {len(set(exits)) for exits in asked} == {2}
    assert {exit for exits in asked for exit in exits} == {1, 2, 3}


@pytest.mark.parametrize("kind", [Align, ExitTuning])
def test_some_steps_lower_the_loss(kind: Any, lessons: Lessons, tmp_path: Path) -> None:
    language = lessons.towers.model.model.language_model
    stage = kind(MIXTURE if kind is Align else EXITS, lessons, inject(language, 4, seed=0), 1)
    before = stage.held_out()
    assert Training(Limits(), tmp_path, stage.measures).run(stage) == 25
    after = stage.held_out()
    assert all(after[name] < 0.95 * before[name] for name in before), (before, after)
    with (tmp_path / CURVE).open(newline="", encoding="utf-8") as file:
        row = list(csv.DictReader(file))[-1]
    assert [float(row[f"held-out {name}"]) for name in stage.measures] == pytest.approx(list(after.values()), abs=1e-3)


def test_a_loss_that_is_no_number_stops_at_the_last_good_state(lessons: Lessons, tmp_path: Path) -> None:
    language = lessons.towers.model.model.language_model
    stage = Align(dataclasses.replace(MIXTURE, learning_rate=1e25), lessons, inject(language, 4, seed=0), 1)
    with pytest.raises(TrainingError, match="the loss of stage 'align' is not a number"):
        Training(Limits(), tmp_path, stage.measures).run(stage)
    from safetensors.torch import load_file

    assert all(bool(value.isfinite().all()) for value in load_file(state_file(tmp_path, "align")).values())
