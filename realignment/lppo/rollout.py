"""Rollouts: groups of requests, answered by the policy at a drawn depth, scored, and ready for the update."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jetson_runtime.console import require
from realignment.adapters import adapter_merged, adapter_off
from realignment.answering import Said, answer_batch
from realignment.answers import decoder_states
from realignment.easy_vqa import Question, sample_per_image
from realignment.lessons import text_of
from realignment.lppo.curriculum import TEXT_ALONE, Curriculum
from realignment.lppo.plan import PpoPlan
from realignment.lppo.rewards import VISUAL, Asked, Reward, answered_rightly
from realignment.packing import IGNORED, Packed, pack
from realignment.requests import Pool
from realignment.scenes import Scenes
from realignment.towers import Towers
from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL, judge
from refusal_suite.prompts import BENIGN, HARMFUL

__all__ = ["Group", "Rollout", "View", "World", "answer_groups", "draw_group", "evaluate", "say", "shown_of"]


@dataclass(frozen=True)
class World:
    """What rollouts are made of: the policy (`towers`, its adapter in place), its value head, requests and pictures.

    With `bfloat16` the decoder runs in mixed precision, in rollouts and updates alike.
    """

    towers: Towers
    value_head: Any
    pool: Pool
    scenes: Scenes
    reward: Reward
    bfloat16: bool = False

    def precision(self) -> Any:
        """A context in which the decoder runs."""
        torch = require("torch", "realign")
        return torch.autocast(self.towers.model.device.type, torch.bfloat16, enabled=self.bfloat16)

    def merged(self) -> Any:
        """A context in which the policy answers: as it is but for rounding, only faster."""
        torch = require("torch", "realign")
        dtype = torch.bfloat16 if self.bfloat16 else torch.float32
        return adapter_merged(self.towers.model.model.language_model, dtype)


@dataclass(frozen=True)
class Group:
    """Requests that are answered together: at one decoder exit, about one picture left at one vision exit, or none.

    `anchors` are questions about the picture that are not answered, but on which the reference is kept.
    """

    vision: int
    decoder: int
    picture: int | None
    asked: tuple[Asked, ...]
    anchors: tuple[Question, ...] = ()


@dataclass(frozen=True)
class Rollout:
    """A group's answers, their scores, and the old policy's view of them; tensors are [answers, tokens].

    `anchored` are the reference's log-probabilities at the anchors' answers, [anchor tokens, vocabulary]. `failures`
    says of each answer, by its request's id, whether it was not as it should be; `counts` has the outcomes by kind.
    """

    group: Group
    packed: Packed
    mask: Any
    old: Any
    reference: Any
    values: Any
    rewards: Any
    anchored: Any
    failures: Mapping[str, bool] = field(repr=False)
    counts: Mapping[str, int] = field(repr=False)

    @property
    def failed(self) -> float:
        """The share of answers that were not as they should be."""
        return sum(self.failures.values()) / len(self.failures)


@dataclass(frozen=True)
class View:
    """What a policy says of a group's answers: log-probabilities, values, entropies, each [answers, tokens].

    `anchors` are its log-probabilities at the anchors' answers, [anchor tokens, vocabulary].
    """

    logprobs: Any
    values: Any
    entropy: Any
    anchors: Any


def draw_group(
    world: World, plan: PpoPlan, vision: int, decoder: int, requests: Curriculum[str], chance: random.Random
) -> Group:
    """A group for that depth; vision exit `TEXT_ALONE` is a group without a picture. `requests` knows what failed."""
    picture = None if vision == TEXT_ALONE else chance.randrange(len(world.scenes))
    asked: list[Asked] = []
    anchors: tuple[Question, ...] = ()
    if picture is not None:
        about = world.scenes.questions[picture]
        anchors = tuple(sample_per_image(about, plan.anchors, chance))
        count = sum(chance.random() < plan.visual_share for _ in range(plan.prompts)) * (vision in plan.visual_exits)
        asked = [
            Asked(f"visual-{picture}-{n}", q.text, VISUAL, q.answer)
            for n, q in enumerate(sample_per_image(about, count, chance))
        ]
    rest = plan.prompts - len(asked)
    harmful = round(rest * plan.harmful_share(decoder))
    for kind, number in ((HARMFUL, harmful), (BENIGN, rest - harmful)):
        known, fresh = ({r.id: r.text for r in world.pool.of(kind, held_out=held)} for held in (False, True))
        count = min(sum(chance.random() < plan.fresh_share for _ in range(number)), len(fresh))
        for pool, part in ((fresh, count), (known, number - count)):
            asked += [Asked(id, pool[id], kind) for id in requests.sample(list(pool), part, chance)]
    # Prompts of like length together: less padding in the batch.
    return Group(vision, decoder, picture, tuple(sorted(asked, key=lambda one: len(one.text))), anchors)


def answer_groups(world: World, plan: PpoPlan, groups: Sequence[Group], generators: Sequence[Any]) -> list[Rollout]:
    """Let the policy answer groups, score the answers, and note what old policy, reference and value head say.

    Each group draws from its own of `generators`: its answers are the same with any others beside it.
    """
    asked = [
        [world.towers.prompts.asked(one.text, image=group.picture is not None) for one in group.asked]
        for group in groups
    ]
    said = say(world, plan, groups, asked, generators)
    return [_scored(world, *given) for given in zip(groups, asked, said, strict=True)]


def say(
    world: World,
    plan: PpoPlan,
    groups: Sequence[Group],
    asked: Sequence[Sequence[list[int]]],
    generators: Sequence[Any],
) -> list[list[Said]]:
    """The policy's answers to groups of prompts; `asked` are the prompts' tokens.

    What leaves the decoder at one exit, with a picture or without, is answered in one batch.
    """
    torch = require("torch", "realign")
    together: dict[tuple[int, bool], list[int]] = {}
    for number, group in enumerate(groups):
        together.setdefault((group.decoder, group.picture is None), []).append(number)
    said: dict[int, list[Said]] = {}
    with world.merged(), world.precision():
        for (decoder, alone), numbers in together.items():
            answers = answer_batch(
                world.towers,
                decoder,
                [asked[number] for number in numbers],
                None if alone else torch.stack([shown_of(world, groups[number]) for number in numbers]),
                max_new_tokens=plan.max_new_tokens,
                temperature=plan.temperature,
                generators=[generators[number] for number in numbers],
            )
            said |= dict(zip(numbers, answers, strict=True))
    return [said[number] for number in range(len(groups))]


def _scored(world: World, group: Group, asked: Sequence[list[int]], said: Sequence[Said]) -> Rollout:
    torch = require("torch", "realign")
    towers, device, shown = world.towers, world.towers.model.device, shown_of(world, group)
    texts = [text_of(towers, one.tokens) for one in said]
    finished = [one.tokens[-1] in towers.stop_tokens for one in said]
    rewards = torch.tensor(world.reward(group.asked, texts, finished), dtype=torch.float32, device=device)
    packed = _packed(towers, group, asked, said)
    mask = _padded([torch.ones(len(one.tokens), device=device) for one in said])
    with torch.no_grad():
        old = evaluate(world, group, packed, shown, mask)
        with adapter_off(towers.model.model.language_model):
            reference = evaluate(world, group, packed, shown, mask)
    failures, counts = _outcomes(group.asked, texts)
    return Rollout(
        *(group, packed, mask, old.logprobs, reference.logprobs, old.values, rewards, reference.anchors),
        failures,
        counts,
    )


_GOOD = {HARMFUL: "harmful refused", BENIGN: "benign answered", VISUAL: "visual right"}


def _outcomes(asked: Sequence[Asked], texts: Sequence[str]) -> tuple[dict[str, bool], dict[str, int]]:
    """Which answers failed, by id, and counts by kind."""
    failures: dict[str, bool] = {}
    counts = dict.fromkeys((*_GOOD, *_GOOD.values(), "harmful answered", "incoherent"), 0)
    for one, text in zip(asked, texts, strict=True):
        label = judge(text, one.text).label
        good = label == {HARMFUL: REFUSAL, BENIGN: COMPLIANCE}.get(one.kind)
        if one.kind == VISUAL:
            good = answered_rightly(one, text)
        failures[one.id] = not good
        counts[one.kind] += 1
        counts[_GOOD[one.kind]] += good
        counts["incoherent"] += label == INCOHERENT
        counts["harmful answered"] += one.kind == HARMFUL and label == COMPLIANCE
    return failures, counts


def evaluate(world: World, group: Group, packed: Packed, shown: Any, mask: Any) -> View:
    """What the policy as it is now says of a group's answers and anchors.

    One pass over the packed group: the picture is read once for all its requests.
    """
    torch = require("torch", "realign")
    model = world.towers.model
    wanted = packed.labels != IGNORED
    filled = _filled(world.towers, packed, shown)
    with world.precision():
        states = decoder_states(model, packed, filled, world.towers.decoder(group.decoder))[wanted].float()
    chances = model.lm_head(states).float().log_softmax(-1)
    lengths = mask.sum(1).long().tolist()
    answers = sum(lengths)  # the anchors come after them
    spoken = chances[:answers]
    chosen = spoken.gather(1, packed.labels[wanted][:answers, None])[:, 0]
    entropy = -(spoken.detach().exp() * spoken.detach()).sum(-1)
    logprobs, values, entropies = (
        torch.nn.utils.rnn.pad_sequence(part.split(lengths), True)
        for part in (chosen, world.value_head(states[:answers])[:, 0], entropy)
    )
    return View(logprobs, values, entropies, chances[answers:])


def shown_of(world: World, group: Group) -> Any:
    """The group's projected picture, [image tokens, width], or None."""
    if group.picture is None:
        return None
    return world.scenes.shown[group.vision][group.picture].float().to(world.towers.model.device)


def _packed(towers: Towers, group: Group, asked: Sequence[list[int]], said: Sequence[Said]) -> Packed:
    row = [towers.prompts.answered(ids, list(one.tokens)) for ids, one in zip(asked, said, strict=True)]
    row += [towers.prompts.segment(question.text, question.answer) for question in group.anchors]
    prefix = [] if group.picture is None else towers.prompts.prefix
    return pack(prefix, [row], [range(len(prefix))]).to(towers.model.device)


def _filled(towers: Towers, packed: Packed, shown: Any) -> Any:
    """`shown`, then what the decoder was given where an answer itself says the image token: its plain embedding."""
    if shown is None:
        return None
    marks = packed.tokens == towers.prompts.image_token_id
    plain = towers.model.get_input_embeddings().weight[towers.prompts.image_token_id]
    return require("torch", "realign").cat([shown, plain.expand(int(marks.sum()) - len(shown), -1)])


def _padded(rows: Sequence[Any]) -> Any:
    return require("torch", "realign").nn.utils.rnn.pad_sequence(list(rows), True)
