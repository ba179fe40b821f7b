"""Rollouts: groups of requests, answered by the policy at a drawn depth, scored, and ready for the update."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jetson_runtime.console import require
from realignment.adapters import adapter_off
from realignment.answering import Said, answer_batch
from realignment.answers import decoder_states
from realignment.easy_vqa import sample_per_image
from realignment.lessons import text_of
from realignment.lppo.curriculum import TEXT_ALONE
from realignment.lppo.plan import PpoPlan
from realignment.lppo.rewards import Asked, Reward, answered_rightly
from realignment.packing import IGNORED, Packed, pack
from realignment.requests import Pool
from realignment.scenes import Scenes
from realignment.towers import Towers
from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL, judge
from refusal_suite.prompts import BENIGN, HARMFUL

__all__ = ["Group", "Rollout", "World", "answer_group", "draw_group", "evaluate", "shown_of"]


@dataclass(frozen=True)
class World:
    """What rollouts are made of: the policy (`towers`, its adapter in place), its value head, requests and pictures."""

    towers: Towers
    value_head: Any
    pool: Pool
    scenes: Scenes
    reward: Reward


@dataclass(frozen=True)
class Group:
    """Requests that are answered together: at one decoder exit, about one picture left at one vision exit, or none."""

    vision: int
    decoder: int
    picture: int | None
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class Rollout:
    """A group's answers, their scores, and the old policy's view of them; tensors are [answers, tokens].

    `failed` is the share of answers that were not as they should be; `counts` has the outcomes by kind.
    """

    group: Group
    packed: Packed
    mask: Any
    old: Any
    reference: Any
    values: Any
    rewards: Any
    failed: float
    counts: dict[str, int] = field(repr=False)


def draw_group(world: World, plan: PpoPlan, vision: int, decoder: int, chance: random.Random) -> Group:
    """A group for that depth; vision exit `TEXT_ALONE` is a group without a picture."""
    picture = None if vision == TEXT_ALONE else chance.randrange(len(world.scenes))
    asked: list[Asked] = []
    if picture is not None:
        count = sum(chance.random() < plan.visual_share for _ in range(plan.prompts))
        questions = sample_per_image(world.scenes.questions[picture], count, chance)
        asked = [Asked(f"visual-{picture}-{n}", q.text, "visual", q.answer) for n, q in enumerate(questions)]
    rest = plan.prompts - len(asked)
    harmful = round(rest * plan.harmful_share)
    for kind, number in ((HARMFUL, harmful), (BENIGN, rest - harmful)):
        known, fresh = world.pool.of(kind), world.pool.of(kind, held_out=True)
        count = min(sum(chance.random() < plan.fresh_share for _ in range(number)), len(fresh))
        for request in [*chance.sample(fresh, count), *chance.sample(known, number - count)]:
            asked.append(Asked(request.id, request.text, kind))
    # Prompts of like length together: less padding in the batch.
    return Group(vision, decoder, picture, tuple(sorted(asked, key=lambda one: len(one.text))))


def answer_group(world: World, plan: PpoPlan, group: Group, generator: Any) -> Rollout:
    """Let the policy answer a group, score the answers, and note what old policy, reference and value head say."""
    torch = require("torch", "realign")
    towers, image = world.towers, group.picture is not None
    asked = [towers.prompts.asked(one.text, image=image) for one in group.asked]
    shown = shown_of(world, group)
    (said,) = answer_batch(
        towers,
        group.decoder,
        [asked],
        None if shown is None else shown[None],
        max_new_tokens=plan.max_new_tokens,
        temperature=plan.temperature,
        generator=generator,
    )
    texts = [text_of(towers, one.tokens) for one in said]
    finished = [one.tokens[-1] in towers.stop_tokens for one in said]
    device = towers.model.device
    rewards = torch.tensor(world.reward(group.asked, texts, finished), dtype=torch.float32, device=device)
    packed = _packed(towers, asked, said, image)
    mask = _padded([torch.ones(len(one.tokens), device=device) for one in said])
    with torch.no_grad():
        old, values, _ = evaluate(world, group, packed, shown, mask)
        with adapter_off(towers.model.model.language_model):
            reference, _, _ = evaluate(world, group, packed, shown, mask)
    counts = _counts(group.asked, texts)
    failed = 1 - sum(counts[name] for name in _GOOD) / len(texts)
    return Rollout(group, packed, mask, old, reference, values, rewards, failed, counts)


_GOOD = ("harmful refused", "benign answered", "visual right")


def _counts(asked: Sequence[Asked], texts: Sequence[str]) -> dict[str, int]:
    counts = dict.fromkeys(("harmful", "benign", "visual", *_GOOD, "harmful answered", "incoherent"), 0)
    for one, text in zip(asked, texts, strict=True):
        counts[one.kind] += 1
        label = judge(text, one.text).label
        counts["incoherent"] += label == INCOHERENT
        if one.kind == HARMFUL:
            counts["harmful refused"] += label == REFUSAL
            counts["harmful answered"] += label == COMPLIANCE
        elif one.kind == BENIGN:
            counts["benign answered"] += label == COMPLIANCE
        else:
            counts["visual right"] += answered_rightly(one, text)
    return counts


def evaluate(world: World, group: Group, packed: Packed, shown: Any, mask: Any) -> tuple[Any, Any, Any]:
    """Log-probabilities, values and entropies of a group's answers under the policy as it is now, [answers, tokens].

    One pass over the packed group: the picture is read once for all its requests.
    """
    torch = require("torch", "realign")
    model = world.towers.model
    wanted = packed.labels != IGNORED
    filled = _filled(world.towers, packed, shown)
    states = decoder_states(model, packed, filled, world.towers.decoder(group.decoder))[wanted]
    chances = model.lm_head(states).float().log_softmax(-1)
    chosen = chances.gather(1, packed.labels[wanted][:, None])[:, 0]
    entropy = -(chances.detach().exp() * chances.detach()).sum(-1)
    lengths = mask.sum(1).long().tolist()
    flat = (chosen, world.value_head(states)[:, 0], entropy)
    logprobs, values, entropies = (torch.nn.utils.rnn.pad_sequence(part.split(lengths), True) for part in flat)
    return logprobs, values, entropies


def shown_of(world: World, group: Group) -> Any:
    """The group's projected picture, [image tokens, width], or None."""
    if group.picture is None:
        return None
    return world.scenes.shown[group.vision][group.picture].float().to(world.towers.model.device)


def _packed(towers: Towers, asked: Sequence[list[int]], said: Sequence[Said], image: bool) -> Packed:
    row = [towers.prompts.answered(ids, list(one.tokens)) for ids, one in zip(asked, said, strict=True)]
    prefix = towers.prompts.prefix if image else []
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
