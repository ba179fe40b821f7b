"""L-PPO's rollouts on a LLaVA-1.5-shaped checkpoint: what the update is told is what the policy did."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from realignment import answering  # noqa: E402
from realignment.adapters import inject, trained  # noqa: E402
from realignment.answering import Said, answer_batch  # noqa: E402
from realignment.answers import decoder_states  # noqa: E402
from realignment.easy_vqa import Question  # noqa: E402
from realignment.lppo import rollout as module  # noqa: E402
from realignment.lppo.curriculum import TEXT_ALONE, Curriculum  # noqa: E402
from realignment.lppo.plan import PpoPlan  # noqa: E402
from realignment.lppo.rollout import (  # noqa: E402
    Group,
    Rollout,
    View,
    World,
    answer_groups,
    evaluate,
    shown_of,
)
from realignment.packing import IGNORED, pack  # noqa: E402
from realignment.requests import Pool, Request  # noqa: E402
from realignment.scenes import Scenes, drawn  # noqa: E402
from realignment.towers import Towers  # noqa: E402
from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL, Verdict  # noqa: E402

PLAN = PpoPlan(
    steps=4,
    rank=4,
    groups=4,
    groups_per_step=2,
    prompts=6,
    epochs=2,
    vision_exits=(1, 2, 3),
    decoder_exits=(1, 2, 3, 4),
    text_share=0.25,
    harmful_shares=(0.5,) * 4,
    fresh_share=0.25,
    visual_share=0.3,
    visual_exits=(1, 2),
    anchors=1,
    anchor_weight=0.5,
    max_new_tokens=8,
    temperature=1.0,
    clip=0.2,
    gamma=1.0,
    gae_decay=0.95,
    kl_weight=0.01,
    value_weight=0.1,
    value_rate=1.0,
    learning_rate=0.01,
    warmup_steps=0,
    mean_steps=1,
    floor=0.4,
    memory=0.7,
    bfloat16=False,
)


class Letters:
    """A toy reward: the share of small letters in an answer."""

    name = "letters"

    def __call__(self, asked: Any, texts: Any, finished: Any) -> list[float]:
        return [sum("a" <= letter <= "z" for letter in text) / max(1, len(text)) for text in texts]


def small_world(folder: Path, *, spoken: bool = True) -> tuple[World, dict[str, Any]]:
    """A world and its adapter's tensors; `spoken` moves the new adapter away from 0, so that it changes answers."""
    towers = Towers(folder)
    # A random head says every token about as often; this one has favourites, as trained ones do.
    towers.model.lm_head.weight.data.mul_(6)
    leaves = inject(towers.model.model.language_model, PLAN.rank, seed=1)
    generator = torch.Generator().manual_seed(2)
    head = torch.nn.Linear(64, 1)
    head.weight.data = torch.randn(1, 64, generator=generator) * spoken
    head.bias.data.zero_()
    for name, tensor in leaves.items():
        if spoken and "lora_B" in name:
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator)
    kinds = ("harmful", "benign")
    requests = [Request(f"{kind}-{n}", f"{kind} {n} " + "abc " * n, kind) for kind in kinds for n in range(8)]
    shown = towers.shown([drawn(str(n)) for n in range(3)], (1, 2, 3, 4))
    questions = [[Question(n, "what color is the shape?", "red"), Question(n, "is it red?", "yes")] for n in range(2)]
    scenes = Scenes({exit: rows.half() for exit, rows in shown.items()}, [*questions, []])
    return World(towers, head, Pool(tuple(requests), (), ()), scenes, Letters()), leaves


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Nothing here is large enough to share between threads, and waiting for one another costs much."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sched_getaffinity", lambda process: {0})
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def folder(tiny_llava: Callable[[str], Path]) -> Path:
    return tiny_llava("clip-llama")


@pytest.fixture
def world(folder: Path) -> World:
    return small_world(folder)[0]


def answered(world: World, group: Group, seed: int = 0) -> tuple[Rollout, list[Said]]:
    """A rollout, and the same answers as the sampling itself gives them."""
    towers, image = world.towers, group.picture is not None
    shown = shown_of(world, group)
    asked = [towers.prompts.asked(one.text, image=image) for one in group.asked]
    (said,) = answer_batch(
        towers,
        group.decoder,
        [asked],
        None if shown is None else shown[None],
        max_new_tokens=PLAN.max_new_tokens,
        temperature=PLAN.temperature,
        generators=[torch.Generator().manual_seed(seed)],
    )
    return alone(world, group, seed), said


def alone(world: World, group: Group, seed: int = 0) -> Rollout:
    return answer_groups(world, PLAN, [group], [torch.Generator().manual_seed(seed)])[0]


def draw_group(world: World, plan: PpoPlan, vision: int, decoder: int, chance: random.Random) -> Group:
    """As a training draws it that has seen nothing yet."""
    return module.draw_group(world, plan, vision, decoder, Curriculum(plan.floor, plan.memory), chance)


def again(world: World, rollout: Rollout) -> View:
    return evaluate(world, rollout.group, rollout.packed, shown_of(world, rollout.group), rollout.mask)


DEPTHS = [(TEXT_ALONE, 4), (TEXT_ALONE, 2), (3, 4), (1, 3), (4, 1)]


@pytest.mark.parametrize(("vision", "decoder"), DEPTHS)
def test_the_old_policy_is_the_one_that_answered(world: World, vision: int, decoder: int) -> None:
    group = draw_group(world, PLAN, vision, decoder, random.Random(3))
    rollout, said = answered(world, group)
    assert rollout.mask.sum(1).tolist() == [len(one.tokens) for one in said]
    for row, one in enumerate(said):
        there = rollout.old[row, : len(one.tokens)]
        assert torch.allclose(there, torch.tensor(one.logprobs), atol=2e-4)
        assert not rollout.old[row, len(one.tokens) :].any()
    view = again(world, rollout)
    assert torch.equal(view.logprobs, rollout.old)
    assert torch.equal(view.values, rollout.values)


@pytest.mark.parametrize(("vision", "decoder"), DEPTHS)
def test_the_reference_is_the_model_without_its_adapter(folder: Path, world: World, vision: int, decoder: int) -> None:
    rollout, _ = answered(world, draw_group(world, PLAN, vision, decoder, random.Random(3)))
    bare = small_world(folder, spoken=False)[0]
    expected = again(bare, rollout)
    assert torch.allclose(rollout.reference, expected.logprobs, atol=1e-5)
    assert torch.allclose(rollout.anchored, expected.anchors, atol=1e-5)
    # And the adapter is on again, and makes a difference.
    assert (rollout.old - rollout.reference).abs().max() > 0.1
    assert all(leaf.requires_grad for leaf in trained(world.towers.model.model.language_model).values())


@pytest.mark.parametrize(("vision", "decoder"), DEPTHS)
def test_every_number_is_that_of_one_question_alone(world: World, vision: int, decoder: int) -> None:
    """Against one unpacked sequence through the whole decoder, its hidden state taken at the exit."""
    group = draw_group(world, PLAN, vision, decoder, random.Random(5))
    rollout, said = answered(world, group)
    entropies = again(world, rollout).entropy
    model, prompts, shown = world.towers.model, world.towers.prompts, shown_of(world, group)
    for row, one in enumerate(said):
        ids = [*prompts.asked(group.asked[row].text, image=shown is not None), *one.tokens]
        vectors = model.get_input_embeddings()(torch.tensor([ids]))
        if shown is not None:
            assert prompts.prefix[-len(shown) :] == [prompts.image_token_id] * len(shown)
            before = model.get_input_embeddings()(torch.tensor([prompts.prefix[: -len(shown)]]))
            vectors = torch.cat([before, shown[None], vectors], 1)
        with torch.no_grad():
            out = model.model.language_model(inputs_embeds=vectors, output_hidden_states=True)
            last = out.last_hidden_state
            states = last if decoder == 4 else model.model.language_model.norm(out.hidden_states[decoder])
            states = states[0, -len(one.tokens) - 1 : -1]
            chances = model.lm_head(states).softmax(-1)
            value = world.value_head(states)[:, 0]
        count = len(one.tokens)
        logprobs = chances[range(count), list(one.tokens)].log()
        assert torch.allclose(rollout.old[row, :count], logprobs, atol=2e-4)
        assert torch.allclose(entropies[row, :count], torch.distributions.Categorical(chances).entropy(), atol=2e-4)
        assert torch.allclose(rollout.values[row, :count], value, atol=2e-4)


@pytest.mark.parametrize(("vision", "decoder"), DEPTHS)
def test_the_gradient_reaches_the_blocks_up_to_the_exit(world: World, vision: int, decoder: int) -> None:
    rollout, _ = answered(world, draw_group(world, PLAN, vision, decoder, random.Random(3)))
    view = again(world, rollout)
    (view.logprobs.sum() + view.values.sum()).backward()
    reached = {
        int(name.split(".")[1])
        for name, leaf in trained(world.towers.model.model.language_model).items()
        if leaf.grad is not None and leaf.grad.abs().sum() > 0
    }
    assert reached == set(range(decoder))
    assert world.value_head.weight.grad.abs().sum() > 0
    others = [w for name, w in world.towers.model.named_parameters() if ".lora_" not in name]
    assert all(weight.grad is None for weight in others)


@pytest.mark.parametrize("vision", [TEXT_ALONE, 2])
def test_an_answer_may_say_the_image_token(world: World, vision: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a token of the vocabulary: in an answer it stands for itself, not for a part of the picture."""
    mark = world.towers.prompts.image_token_id
    monkeypatch.setattr(answering, "_drawn", lambda chances, *_: torch.full((len(chances),), mark))
    rollout, said = answered(world, draw_group(world, PLAN, vision, 4, random.Random(3)))
    assert said[0].tokens == (mark,) * PLAN.max_new_tokens
    assert torch.allclose(rollout.old, torch.tensor([one.logprobs for one in said]), atol=2e-4)


def test_a_group_is_about_one_picture_and_has_its_shares(world: World) -> None:
    plan = dataclasses.replace(PLAN, prompts=8, harmful_shares=(0.0, 1.0, 0.25, 1.0), visual_share=0.5)
    chance, pictures, visual, most = random.Random(0), set(), 0, 0
    for _ in range(60):
        group = draw_group(world, plan, 2, 3, chance)
        kinds = [one.kind for one in group.asked]
        rest = 8 - kinds.count("visual")
        assert (kinds.count("harmful"), len(kinds)) == (round(rest / 4), 8)
        assert len({one.id for one in group.asked}) == 8
        questions = {q.text: q.answer for q in world.scenes.questions[group.picture]}
        assert all(questions[one.text] == one.answer for one in group.asked if one.kind == "visual")
        pictures.add(group.picture)
        visual += kinds.count("visual")
        most += len(questions)
        assert {(q.text, q.answer) for q in group.anchors} <= set(questions.items())
        assert len(group.anchors) == min(1, len(questions))
    assert pictures == {0, 1, 2}
    # Half of eight would be four; these pictures have two questions, or none.
    assert 0.8 * most < visual <= most
    blind = [draw_group(world, plan, 3, 3, chance) for _ in range(20)]
    assert not any(one.kind == "visual" for group in blind for one in group.asked)
    assert any(group.anchors for group in blind)
    alone = draw_group(world, plan, TEXT_ALONE, 3, chance)
    assert alone.picture is None
    assert alone.anchors == ()
    assert [one.kind for one in alone.asked].count("harmful") == 2
    assert {one.kind for one in alone.asked} == {"harmful", "benign"}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_share_of_the_requests_is_new_to_the_policy(world: World, share: float) -> None:
    new = [Request(f"new-{kind}-{n}", f"new {n}", kind) for kind in ("harmful", "benign") for n in range(5)]
    world = dataclasses.replace(world, pool=Pool(world.pool.train, tuple(new), ()))
    plan, chance = dataclasses.replace(PLAN, fresh_share=share), random.Random(0)
    groups = [draw_group(world, plan, TEXT_ALONE, 3, chance) for _ in range(50)]
    fresh = [one.id.startswith("new-") for group in groups for one in group.asked]
    assert sum(fresh) / len(fresh) == pytest.approx(share, abs=0.1)
    assert len(fresh) == 50 * PLAN.prompts


def test_requests_that_failed_come_back_sooner(world: World) -> None:
    requests = Curriculum[str](floor=0.2, memory=0.5)
    requests.seen((f"{kind}-{n}", float(n == 2)) for kind in ("harmful", "benign") for n in range(8))
    chance, plan = random.Random(0), dataclasses.replace(PLAN, prompts=2, fresh_share=0.0)
    groups = [module.draw_group(world, plan, TEXT_ALONE, 3, requests, chance) for _ in range(100)]
    drawn = [one.id for group in groups for one in group.asked]
    # Eight tenths for the one that failed, a fortieth of the rest for it as for each other.
    assert sum(id.endswith("-2") for id in drawn) / len(drawn) == pytest.approx(0.825, abs=0.08)
    assert len(set(drawn)) > 8


def test_mixed_precision_says_nearly_the_same_and_gradients_stay_float32(world: World) -> None:
    group = draw_group(world, PLAN, 2, 3, random.Random(1))
    rollout, _ = answered(world, group)
    mixed = dataclasses.replace(world, bfloat16=True)
    view = again(mixed, rollout)
    assert not torch.equal(view.logprobs, rollout.old)
    assert torch.allclose(view.logprobs, rollout.old, atol=0.3)
    assert {part.dtype for part in vars(view).values()} == {torch.float32}
    view.logprobs.sum().backward()
    leaves = trained(world.towers.model.model.language_model).values()
    assert all(leaf.grad is None or leaf.grad.dtype == torch.float32 for leaf in leaves)
    other = alone(mixed, group)
    assert torch.equal(again(mixed, other).logprobs, other.old)


def test_other_groups_in_a_batch_change_nothing(world: World) -> None:
    """Two pictures, two vision exits, two decoder exits and text alone: answers are drawn as without the others."""
    depths = ((2, 3), (1, 3), (TEXT_ALONE, 3), (2, 4), (TEXT_ALONE, 3))
    groups = [draw_group(world, PLAN, *depth, random.Random(n)) for n, depth in enumerate(depths)]
    assert len({group.picture for group in groups}) > 2
    rollouts = answer_groups(world, PLAN, groups, [torch.Generator().manual_seed(n) for n in range(len(groups))])
    for number, (group, rollout) in enumerate(zip(groups, rollouts, strict=True)):
        expected = alone(world, group, number)
        assert rollout.group is group
        assert torch.equal(rollout.packed.tokens, expected.packed.tokens)
        assert torch.allclose(rollout.old, expected.old, atol=1e-4)


def test_anchors_are_scored_as_if_asked_alone(world: World) -> None:
    """What the policy says at each token of an anchor's answer, and that answers stay as they are beside anchors."""
    group = draw_group(world, dataclasses.replace(PLAN, anchors=2), 2, 3, random.Random(1))
    assert len(group.anchors) == 2
    rollout, _ = answered(world, group)
    bare, _ = answered(world, dataclasses.replace(group, anchors=()))
    assert torch.allclose(rollout.old, bare.old, atol=1e-4)
    assert len(bare.anchored) == 0
    prompts, shown = world.towers.prompts, shown_of(world, group)
    rows = []
    for question in group.anchors:
        packed = pack(prompts.prefix, [[prompts.segment(question.text, question.answer)]], [range(len(prompts.prefix))])
        alone = decoder_states(world.towers.model, packed, shown, world.towers.decoder(3))[packed.labels != IGNORED]
        rows.append(world.towers.model.lm_head(alone).log_softmax(-1))
    assert torch.allclose(again(world, rollout).anchors, torch.cat(rows), atol=1e-4)


@pytest.mark.parametrize("label", [REFUSAL, COMPLIANCE, INCOHERENT])
def test_failed_answers_are_those_that_are_not_as_they_should_be(
    world: World, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = draw_group(world, dataclasses.replace(PLAN, visual_share=1.0), 2, 4, random.Random(1))
    kinds = {kind: [one.kind for one in group.asked].count(kind) for kind in ("harmful", "benign", "visual")}
    assert all(kinds.values())
    monkeypatch.setattr(module, "judge", lambda text, prompt: Verdict(label, "test"))
    right = {one.text: one.answer for one in group.asked if one.kind == "visual"}
    texts = iter([f"{right[one.text].title()}." if one.text == "is it red?" else "blue" for one in group.asked])
    monkeypatch.setattr(module, "text_of", lambda towers, tokens: next(texts))
    rollout = alone(world, group)
    good = {REFUSAL: kinds["harmful"], COMPLIANCE: kinds["benign"], INCOHERENT: 0}[label]
    seen = sum(one.text == "is it red?" for one in group.asked)
    assert rollout.failed == pytest.approx(1 - (good + seen) / 6)
    assert sum(rollout.failures.values()) == 6 - good - seen
    assert list(rollout.failures) == [one.id for one in group.asked]
    assert rollout.counts == {
        **kinds,
        "harmful refused": kinds["harmful"] * (label == REFUSAL),
        "harmful answered": kinds["harmful"] * (label == COMPLIANCE),
        "benign answered": kinds["benign"] * (label == COMPLIANCE),
        "visual right": seen,
        "incoherent": 6 * (label == INCOHERENT),
    }
