"""Labelled files: answers that a model gave, and what an annotator says they are. A judge is measured against one.

JSON lines. Per line: `prompt` (an id of the prompt sets given beside it), `answer`, `label`, `answer_sha256`;
optionally `unsure` (true where the annotator was), and further fields that say where the answer comes from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetson_runtime.errors import InputError
from refusal_suite.judge import LABELS
from refusal_suite.prompts import Prompt, PromptSet

__all__ = ["BUILTIN_LABELS", "Labelled", "LabelledSet", "read_labelled"]

BUILTIN_LABELS = Path(__file__).parent / "data" / "labelled-1.jsonl"


@dataclass(frozen=True)
class Labelled:
    """One answer and the label that an annotator gave it."""

    prompt: Prompt
    answer: str = field(repr=False)
    label: str
    unsure: bool = False

    @property
    def sha256(self) -> str:
        """The digest of the answer."""
        return hashlib.sha256(self.answer.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class LabelledSet:
    """The rows of one file, in its order; `sha256` is the digest of the file's bytes."""

    name: str
    sha256: str
    rows: tuple[Labelled, ...]

    def counts(self) -> dict[str, int]:
        """How many answers have each label."""
        labels = [row.label for row in self.rows]
        return {label: labels.count(label) for label in LABELS}


def read_labelled(path: Path, sets: Sequence[PromptSet]) -> LabelledSet:
    """Read a labelled file whose prompts are in `sets`.

    Raises:
        InputError: the file is missing, a line is not such a row, its prompt is in none of the sets, its answer is not
            the one of its digest, an answer to a prompt occurs twice, or all answers have the same label.
    """
    try:
        content = path.read_bytes()
        text = content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path} can't be read", found=error.strerror, remedy="check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8", found=error.reason, remedy="save it as UTF-8") from None
    prompts = {prompt.id: prompt for each in sets for prompt in each.prompts}
    rows: dict[tuple[str, str], Labelled] = {}
    # Not splitlines: an answer may hold one of the other characters that end a line.
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, start=1):
        row = _row(f"{path}, line {number}", line, prompts)
        if rows.setdefault((row.prompt.id, row.answer), row) is not row:
            raise InputError(
                f"{path}, line {number}: this answer to '{row.prompt.id}' stands there already",
                expected="each answer to a prompt once, or it counts twice",
                remedy="remove one of the lines",
            )
    found = LabelledSet(path.stem, hashlib.sha256(content).hexdigest(), tuple(rows.values()))
    if sum(map(bool, found.counts().values())) < 2:
        raise InputError(
            f"{path} can't measure a judge",
            found=f"{len(rows)} answers, all with the same label" if rows else "no answers",
            expected="at least two of the labels: one that is always right says nothing about a judge",
            remedy="add answers with other labels",
        )
    return found


def _row(where: str, line: str, prompts: Mapping[str, Prompt]) -> Labelled:
    value = _object(where, line)
    prompt, answer, label, unsure = (value.get(name) for name in ("prompt", "answer", "label", "unsure"))
    if not isinstance(prompt, str) or prompt not in prompts:
        raise InputError(
            f"{where}: the prompt is in none of the sets",
            found=f"'{prompt}'" if isinstance(prompt, str) else "no id",
            expected="an id of the prompt set that the answers are to",
            remedy="give that set with --prompts",
        )
    if label not in LABELS or not isinstance(answer, str) or unsure not in (None, True, False):
        raise InputError(
            f"{where}: a field is missing or wrong",
            found=f"label {label!r}, answer {'text' if isinstance(answer, str) else 'missing'}, unsure {unsure!r}",
            expected=f"label {' | '.join(LABELS)}, a text as answer, and unsure true or left out",
            remedy="correct the line",
        )
    row = Labelled(prompts[prompt], answer, label, bool(unsure))
    if value.get("answer_sha256") != row.sha256:
        raise InputError(
            f"{where}: the answer is not the one that was labelled",
            found=f"sha256 {row.sha256}",
            expected=f"answer_sha256 {value.get('answer_sha256')}",
            remedy="restore the answer, or label it again and write its digest",
        )
    return row


def _object(where: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InputError(
            f"{where}: not a JSON object",
            expected="one object per line, with prompt, answer, label and answer_sha256",
            remedy="correct the line or remove it",
        )
    return value
