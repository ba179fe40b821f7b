"""Supervised lessons: which requests, pictures and answers make a step of `realign align` and `realign exits`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from jetson_runtime.console import require
from realignment.answering import answer_batch
from realignment.easy_vqa import sample_per_image
from realignment.packing import Packed, pack, pick_image_tokens
from realignment.recipe import Mixture
from realignment.requests import Pool, Request
from realignment.scenes import Scenes
from realignment.towers import Towers
from refusal_suite.judge import COMPLIANCE, judge
from refusal_suite.prompts import BENIGN, HARMFUL

__all__ = ["Lesson", "Lessons", "own_answers", "text_of"]

_BATCH = 48


@dataclass(frozen=True)
class Lesson:
    """One step's batch: packed sequences, and the projected pictures for their image tokens (None: text alone)."""

    packed: Packed
    shown: Any


@dataclass(frozen=True)
class Lessons:
    """Draws lessons; `answers` gives for each request the answers that teach it, by id."""

    towers: Towers
    pool: Pool
    scenes: Scenes
    answers: Mapping[str, Sequence[str]]

    def draw(
        self, mixture: Mixture, chance: random.Random, *, image: bool, exit: int, held_out: bool = False
    ) -> Lesson:
        """A lesson of `mixture.rows` sequences with `mixture.prompts` requests each.

        With `image`, each sequence is about one picture at vision `exit`, of which one of the counts
        `mixture.image_tokens` of tokens is kept; a part of the requests then are questions about it.
        """
        torch, prompts = require("torch", "realign"), self.towers.prompts
        device = self.towers.model.device
        requests = {kind: self.pool.of(kind, held_out=held_out) for kind in (HARMFUL, BENIGN)}
        pairs = self.pool.pairs(held_out=held_out)
        rows = []
        numbers = chance.sample(range(len(self.scenes)), mixture.rows)
        for number in numbers:
            visual = sum(chance.random() < mixture.visual_share for _ in range(mixture.prompts)) if image else 0
            asked = sample_per_image(self.scenes.questions[number], visual, chance)
            row = [prompts.segment(question.text, question.answer) for question in asked]
            while len(row) < mixture.prompts:
                for request in _next(requests, pairs, mixture, chance)[: mixture.prompts - len(row)]:
                    row.append(prompts.segment(request.text, chance.choice(self.answers[request.id]), image=image))
            rows.append(row)
        if not image:
            return Lesson(pack([], rows, [[] for _ in rows]).to(device), None)
        generator = torch.Generator().manual_seed(chance.getrandbits(60))
        count = chance.choice(mixture.image_tokens)
        kept = [pick_image_tokens(prompts, count, generator) for _ in rows]
        shown = self.scenes.shown[exit]
        pictures = torch.cat(
            [
                shown[n][[i - prompts.first_image_token for i in keep[prompts.first_image_token :]]]
                for n, keep in zip(numbers, kept, strict=True)
            ]
        )
        return Lesson(pack(prompts.prefix, rows, kept).to(device), pictures.float().to(device))


def _next(
    requests: Mapping[str, Sequence[Request]],
    pairs: Sequence[tuple[Request, Request]],
    mixture: Mixture,
    chance: random.Random,
) -> tuple[Request, ...]:
    if mixture.twin_share and pairs and chance.random() < mixture.twin_share:
        return chance.choice(pairs)
    kind = HARMFUL if chance.random() < mixture.harmful_share else BENIGN
    return (chance.choice(requests[kind]),)


def text_of(towers: Towers, tokens: Sequence[int]) -> str:
    """An answer's text, without its stop token."""
    ids = [token for token in tokens if token not in towers.stop_tokens]
    text: str = towers.processor.tokenizer.decode(ids, skip_special_tokens=True)
    return text.strip()


def own_answers(
    towers: Towers, requests: Sequence[Request], *, max_new_tokens: int, shown: Any = None
) -> dict[str, str]:
    """The checkpoint's own greedy answers at full depth, by id, cut after their last whole sentence.

    Answers without a whole sentence are left out, and answers to benign requests that do not help. `shown` is a
    picture, [image tokens, width], that all requests are asked with; without it they are text alone.
    """
    answers = {}
    order = sorted(requests, key=lambda request: len(request.text))
    for start in tqdm(range(0, len(order), _BATCH), desc="own answers", disable=None):
        batch = order[start : start + _BATCH]
        asked = [[towers.prompts.asked(request.text, image=shown is not None) for request in batch]]
        rows = None if shown is None else shown[None]
        (said,) = answer_batch(towers, towers.decoder_exit, asked, rows, max_new_tokens=max_new_tokens)
        for request, one in zip(batch, said, strict=True):
            text = text_of(towers, one.tokens)
            if one.tokens[-1] not in towers.stop_tokens:
                text = text[: max(text.rfind(mark) for mark in ".!?") + 1]
            if text and (request.kind == HARMFUL or judge(text, request.text).label == COMPLIANCE):
                answers[request.id] = text
    return answers
