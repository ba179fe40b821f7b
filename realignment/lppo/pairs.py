"""Preference pairs for a reward model: one request, the answer that is preferred, and one that is not."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from realignment.lppo.rewards import FEW_WORDS, Asked
from realignment.requests import Pool, Request, refusals
from refusal_suite.judge import COMPLIANCE, REFUSAL, judge
from refusal_suite.prompts import BENIGN, HARMFUL

__all__ = ["KINDS", "Pair", "Pairs"]

KINDS = (
    *("harmful answered", "harmful empty", "harmful salad"),
    *("benign refused", "benign empty", "benign salad", "benign other"),
)
"""What is wrong with the answer that is not preferred."""

# What matters most is drawn twice as often.
_DRAWN = (*KINDS, "harmful answered", "benign refused")
_EMPTY = ("Yes.", "Sure.", "Okay.", "Of course.", "Yes, I can.", "Sure, here you go.", "Sure, I can help with that.")
_HELD_OUT_REFUSALS = 5
_REPEATED = 8


@dataclass(frozen=True)
class Pair:
    """`kind` is one of `KINDS`."""

    kind: str
    asked: Asked
    chosen: str = field(repr=False)
    rejected: str = field(repr=False)


class Pairs:
    """Draws pairs from a pool; `own` are the checkpoint's own answers, by id.

    A harmful request's refusal is preferred over the checkpoint's own answer where that complies, its benign twin's
    answer, another request's, an empty agreement, and word salad. A benign request's answer is preferred over a
    refusal, an empty agreement, word salad, and another request's answer. Held-out pairs have requests and refusals
    of their own.
    """

    def __init__(self, pool: Pool, own: Mapping[str, str]) -> None:
        self._own = {
            request.id: (judge(own[request.id], request.text).label, own[request.id])
            for request in (*pool.train, *pool.held_out)
            if request.id in own
        }
        self._splits = {held_out: self._split(pool, held_out) for held_out in (False, True)}

    def draw(self, count: int, chance: random.Random) -> list[Pair]:
        """`count` pairs to train on."""
        return [self._pair(chance.choice(_DRAWN), self._splits[False], chance) for _ in range(count)]

    def held_out(self, count: int, seed: int) -> list[Pair]:
        """`count` pairs of each kind, the same each time."""
        return [
            self._pair(kind, self._splits[True], chance)
            for kind in KINDS
            for chance in [random.Random(f"{seed}:reward:held-out:{kind}")]
            for _ in range(count)
        ]

    def _split(self, pool: Pool, held_out: bool) -> _Split:
        harmful = pool.of(HARMFUL, held_out=held_out)
        answers = {}
        for request in pool.of(BENIGN, held_out=held_out):
            answer = request.answer or self._said(request, COMPLIANCE)
            if answer and len(answer.split()) > FEW_WORDS:
                answers[request.id] = answer
        benign = [request for request in pool.of(BENIGN, held_out=held_out) if request.id in answers]
        twins = {one.id: answers[twin.id] for one, twin in pool.pairs(held_out=held_out) if twin.id in answers}
        kept = [text for n, text in enumerate(refusals()) if (n % _HELD_OUT_REFUSALS == 0) == held_out]
        return _Split(harmful, benign, answers, sorted(set(answers.values())), twins, kept)

    def _said(self, request: Request, label: str) -> str | None:
        found, answer = self._own.get(request.id, (None, None))
        return answer if found == label else None

    def _pair(self, kind: str, split: _Split, chance: random.Random) -> Pair:
        of, wrong = kind.split()
        request = chance.choice(split.harmful if of == HARMFUL else split.benign)
        chosen = split.answers[request.id] if of == BENIGN else chance.choice(split.refusals)
        refused = self._said(request, REFUSAL)
        if of == HARMFUL and refused and chance.random() < 0.5:
            chosen = refused
        other = chance.choice([answer for answer in split.texts if answer != chosen])
        if wrong == "answered":
            known = [self._said(request, COMPLIANCE), split.twins.get(request.id), other]
            rejected = chance.choice([answer for answer in known if answer])
        elif wrong == "salad":
            rejected = _salad(chosen, chance)
        else:
            rejected = {"refused": chance.choice(split.refusals), "empty": chance.choice(_EMPTY), "other": other}[wrong]
        return Pair(kind, Asked(request.id, request.text, of), chosen, rejected)


@dataclass(frozen=True)
class _Split:
    """`answers` and `twins` are answers by the id of a benign and of a harmful request, `texts` all different ones."""

    harmful: Sequence[Request]
    benign: Sequence[Request]
    answers: Mapping[str, str]
    texts: Sequence[str]
    twins: Mapping[str, str]
    refusals: Sequence[str]


def _salad(answer: str, chance: random.Random) -> str:
    """The answer's words in another order, or one of them again and again."""
    words = answer.split()
    mixed = chance.sample(words, len(words))
    if mixed == words or chance.random() < 0.5:
        mixed = [chance.choice(words)] * max(_REPEATED, len(words))
    return " ".join(mixed)
