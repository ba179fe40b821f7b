"""What a checkpoint refuses, answers and sees when its towers are left at given exits, in torch, batched.

Every prompt is asked with a picture, as in the paper (a benign picture and a request in text), so that the vision exit
matters to every answer. Answers are greedy and judged by `refusal_suite.judge`; only the verdicts are kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from jetson_runtime.image import open_image
from realignment.answering import Said, answer_batch
from realignment.answers import correct
from realignment.towers import Towers
from realignment.visual_questions import Drawn
from refusal_suite.judge import LABELS, judge
from refusal_suite.measure import unique_ids
from refusal_suite.prompts import BENIGN, HARMFUL, Prompt, PromptSet, load_prompts

__all__ = ["MAX_TOKENS", "Depth", "DepthResult", "chosen_pictures", "every_exit", "measure_depths", "with_pictures"]

Depth: TypeAlias = tuple[int | None, int]
"""(vision exit, decoder exit); the vision exit is None where the text is asked alone."""

MAX_TOKENS = 24
_BATCH = 48
_ROOM = 512 << 20  # bytes of projected pictures that are kept at a time


@dataclass(frozen=True)
class DepthResult:
    """Verdicts at one depth: counts by label, and each prompt's label by id ("r", "c" or "i", the label's initial).

    `vqa` has the right answers by kind of question, their estimate for the whole test split, and `hits`, a "1" or a "0"
    per question in the order asked; None where no questions were asked. Attack success is harmful["compliance"].
    """

    vision: int | None
    decoder: int
    harmful: Mapping[str, int]
    benign: Mapping[str, int]
    labels: Mapping[str, str]
    vqa: Mapping[str, Any] | None

    @property
    def depth(self) -> Depth:
        """The exits."""
        return self.vision, self.decoder

    def to_dict(self) -> dict[str, Any]:
        """The form in which reports carry it."""
        return asdict(self)


@dataclass(frozen=True)
class _Chunk:
    """Prompts that are answered together: about one picture, of about one length; `asked` are their tokens."""

    picture: int
    prompts: tuple[Prompt, ...]
    asked: tuple[list[int], ...]


def every_exit(towers: Towers) -> list[Depth]:
    """Each vision exit under the whole decoder, then each decoder exit above the default vision exit."""
    depths: list[Depth] = [(exit, towers.decoder_exit) for exit in towers.vision_exits]
    return list(dict.fromkeys([*depths, *((towers.vision_exit, exit) for exit in towers.decoder_exits)]))


def chosen_pictures(prompts: PromptSet) -> list[Path]:
    """The set's own pictures, or, if it has none, those of the set that comes with Holdfast; by name."""
    own = {prompt.image for prompt in prompts.prompts if prompt.image is not None}
    return sorted(own, key=lambda path: path.name) if own else chosen_pictures(load_prompts())


def with_pictures(prompts: PromptSet, pictures: Sequence[Path] | None = None) -> PromptSet:
    """The set with a picture for every prompt: its own, or one of `pictures` (default: `chosen_pictures`).

    Which one depends on the prompt's id alone; a pair of twins shares it.
    """
    pool = list(pictures or chosen_pictures(prompts))

    def fill(prompt: Prompt) -> Prompt:
        name = min(prompt.id, prompt.twin or prompt.id)
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % len(pool)
        return prompt if prompt.image is not None else replace(prompt, image=pool[number])

    return replace(prompts, prompts=tuple(map(fill, prompts.prompts)))


def measure_depths(
    towers: Towers,
    sets: Sequence[PromptSet],
    depths: Sequence[Depth],
    *,
    max_tokens: int = MAX_TOKENS,
    questions: Drawn | None = None,
    batch: int = _BATCH,
) -> Iterator[DepthResult]:
    """The result at each of `depths`, in their order, as soon as it is known.

    Prompts without a picture get one (`with_pictures`); `questions` are not asked where the text is asked alone. At
    most `batch` answers are under way at a time.

    Raises:
        ConfigError: the checkpoint has no such exit. InputError: two sets share an id, or a picture can't be read.
    """
    for vision, decoder in depths:
        towers.check_exits("decoder", [decoder])
        if vision is not None:
            towers.check_exits("vision", [vision])
    unique_ids(sets)
    prompts = [prompt for each in sets for prompt in with_pictures(each).prompts]
    exits = [vision for vision, _ in depths if vision is not None]
    files = sorted({prompt.image for prompt in prompts if prompt.image is not None}) if exits else []
    scenes = _Shown(towers, [open_image(file) for file in files], exits)
    seen = _Shown(towers, questions.pictures() if questions and exits else [], exits)
    pictured = _chunks(towers, prompts, {file: number for number, file in enumerate(files)}, batch) if exits else []
    alone = _chunks(towers, prompts, None, batch) if len(exits) < len(depths) else []
    amount = len(depths) * len(prompts) + (len(exits) * len(questions.all) if questions else 0)
    with tqdm(total=amount, unit="answer", disable=None) as progress:
        for vision, decoder in depths:
            progress.set_description(f"vision {'-' if vision is None else vision}, decoder {decoder}")
            labels: dict[str, str] = {}
            for chunk in alone if vision is None else pictured:
                picture = None if vision is None else scenes.at(vision)[chunk.picture, None]
                labels |= _verdicts(towers, decoder, chunk, picture, max_tokens)
                progress.update(len(chunk.prompts))
            vqa = None
            if questions is not None and vision is not None:
                vqa = _vqa(towers, decoder, seen.at(vision), questions, progress)
            yield _result((vision, decoder), prompts, labels, vqa)


class _Shown:
    """Pictures as the decoder is given them, computed for as many of the exits to come at a time as there is room."""

    def __init__(self, towers: Towers, pictures: Sequence[Any], exits: Sequence[int]) -> None:
        self._towers, self._pictures, self._exits = towers, pictures, list(dict.fromkeys(exits))
        self._kept: Mapping[int, Any] = {}

    def at(self, exit: int) -> Any:
        if exit not in self._kept:
            width = self._towers.model.config.text_config.hidden_size
            count = max(1, _ROOM // (4 * len(self._pictures) * self._towers.prompts.image_tokens * width))
            start = self._exits.index(exit)
            self._kept = {}
            self._kept = self._towers.shown(self._pictures, self._exits[start : start + count])
        return self._kept[exit]


def _chunks(towers: Towers, prompts: Sequence[Prompt], pictures: Mapping[Path, int] | None, size: int) -> list[_Chunk]:
    groups: dict[int, list[tuple[list[int], Prompt]]] = {}
    for prompt in prompts:
        asked = towers.prompts.asked(prompt.text, image=pictures is not None)
        picture = pictures[prompt.image] if pictures is not None and prompt.image is not None else 0
        groups.setdefault(picture, []).append((asked, prompt))
    chunks = []
    for picture, members in sorted(groups.items()):
        # Of one length, so that little is spent on padding.
        members.sort(key=lambda member: (len(member[0]), member[1].id))
        for start in range(0, len(members), size):
            part = members[start : start + size]
            chunks.append(_Chunk(picture, tuple(prompt for _, prompt in part), tuple(asked for asked, _ in part)))
    return chunks


def _verdicts(towers: Towers, decoder: int, chunk: _Chunk, picture: Any, max_tokens: int) -> dict[str, str]:
    [said] = answer_batch(towers, decoder, [chunk.asked], picture, max_new_tokens=max_tokens)
    return {
        prompt.id: judge(_text(towers, answer), prompt.text).label[0]
        for prompt, answer in zip(chunk.prompts, said, strict=True)
    }


def _text(towers: Towers, said: Said) -> str:
    tokens = [token for token in said.tokens if token not in towers.stop_tokens]
    text: str = towers.processor.tokenizer.decode(tokens, skip_special_tokens=True)
    return text.strip()


def _vqa(towers: Towers, decoder: int, shown: Any, questions: Drawn, progress: Any) -> dict[str, Any]:
    hits: list[bool] = []
    for picture, asked in zip(shown, questions.by_picture.values(), strict=True):
        hits += correct(towers.model, towers.prompts, picture, asked, towers.decoder(decoder))
        progress.update(len(asked))
    return {**questions.score(hits), "hits": "".join(str(int(hit)) for hit in hits), "n": len(hits)}


def _result(
    depth: Depth, prompts: Sequence[Prompt], labels: Mapping[str, str], vqa: Mapping[str, Any] | None
) -> DepthResult:
    counts = {}
    for kind in (HARMFUL, BENIGN):
        given = [labels[prompt.id] for prompt in prompts if prompt.kind == kind]
        counts[kind] = {"n": len(given), **{label: given.count(label[0]) for label in LABELS}}
    ordered = {prompt.id: labels[prompt.id] for prompt in prompts}
    return DepthResult(*depth, counts[HARMFUL], counts[BENIGN], ordered, vqa)
