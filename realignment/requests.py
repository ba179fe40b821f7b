"""What the training stages ask: requests with their answers, split by text, free of anything that the tests ask.

No text leaves this module in an error, a log or a record: requests are named by id, files by digest.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jetson_runtime.errors import ConfigError, InputError
from jetson_runtime.files import read_json, sha256_file
from refusal_suite.formats import read_table
from refusal_suite.prompts import BENIGN, BUILTIN, HARMFUL, Prompt, load_prompts

__all__ = ["FRESH", "OWN", "VALIDATION", "Pool", "Request", "near", "read_pool", "refusals"]

_DATA = Path(__file__).parent / "data"
OWN = tuple(_DATA / name for name in ("requests-car.jsonl", "requests-general.jsonl", "requests-everyday.jsonl"))
"""Our own training requests: written for this, independently of the prompt set that measures."""

FRESH = _DATA / "requests-contrast.jsonl"
"""More of our own, twins that share their alarming words: kept whole from the supervised stages, for L-PPO."""

VALIDATION = _DATA / "requests-validation.jsonl"
"""Twins that no stage trains on: settings are chosen on them, so that the test prompts are measured once."""

NEAR = 0.7
HELD_OUT_EVERY = 10


@dataclass(frozen=True)
class Request:
    """One request of a training stage; `answer` is what should be said to a benign one, where the source knows it."""

    id: str
    text: str = field(repr=False)
    kind: str
    answer: str | None = field(default=None, repr=False)
    group: str = ""


@dataclass(frozen=True)
class Pool:
    """Requests to train on, and those kept for L-PPO (`held_out`); `sources` goes into records."""

    train: tuple[Request, ...]
    held_out: tuple[Request, ...]
    sources: tuple[Mapping[str, Any], ...]

    def of(self, kind: str, *, held_out: bool = False) -> list[Request]:
        """The requests of one kind."""
        return [request for request in (self.held_out if held_out else self.train) if request.kind == kind]

    def pairs(self, *, held_out: bool = False) -> list[tuple[Request, Request]]:
        """Twins: a harmful request and the benign one that it is told apart from."""
        benign = {request.group: request for request in self.of(BENIGN, held_out=held_out)}
        harmful = self.of(HARMFUL, held_out=held_out)
        return [(request, benign[request.group]) for request in harmful if request.group in benign]


def refusals() -> list[str]:
    """Short refusals for any harmful request; some offer a safe alternative."""
    texts: list[str] = read_json(_DATA / "refusals.json")["refusals"]
    return texts


def near(text: str, others: Iterable[frozenset[str]]) -> bool:
    """Whether `text` shares so many words with one of `others` that it is nearly the same request.

    Words are lower case; the measure is Jaccard's, from 0.7.
    """
    mine = _words(text)
    return any(len(mine & theirs) >= NEAR * len(mine | theirs) for theirs in others)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def read_pool(
    extra: Sequence[Mapping[str, Any]],
    folder: Path | None,
    *,
    evaluation: Sequence[Path] = (BUILTIN, VALIDATION),
    seed: int = 0,
) -> Pool:
    """Our own requests and those of `extra`, without what the `evaluation` sets ask, or nearly ask.

    An entry of `extra` names a `file` in `folder`, its `kind`, and optionally its `sha256` and a `limit` (that many
    rows, drawn from `seed`). Each tenth group of requests is held out, and all of `FRESH`; twins are one group.

    Raises:
        InputError: a file is missing, or is not the one that the recipe names; a column is missing; two files share an
            id.
    """
    asked = [_words(prompt.text) for path in evaluation for prompt in load_prompts(path).prompts]
    seen: set[frozenset[str]] = set()
    kept: list[Request] = []
    sources = []
    files: list[tuple[Path, Mapping[str, Any]]] = [(path, {}) for path in OWN]
    files += [*((_found(folder, entry), entry) for entry in extra), (FRESH, {})]
    held: set[str] = set()
    for file, entry in files:
        requests = _read(file, entry, seed)
        fresh = [request for request in requests if not near(request.text, asked)]
        unique = []
        for request in fresh:
            words = _words(request.text)
            if words not in seen:
                unique.append(request)
                seen.add(words)
        sources.append(
            {
                "duplicates_removed": len(fresh) - len(unique),
                "file": file.name,
                "near_evaluation_removed": len(requests) - len(fresh),
                "rows": len(unique),
                "sha256": sha256_file(file),
            }
        )
        kept += unique
        held |= {request.group for request in unique if file is FRESH or _tenth(request.group)}
    _check_ids(kept)
    return Pool(
        tuple(request for request in kept if request.group not in held),
        tuple(request for request in kept if request.group in held),
        tuple(sources),
    )


def _check_ids(requests: Sequence[Request]) -> None:
    """Answers are kept by id."""
    twice = [id for id, count in Counter(request.id for request in requests).items() if count > 1]
    if twice:
        raise InputError(
            "the training data name different requests alike",
            found=f"{len(twice)} ids in two files, the first is '{twice[0]}'",
            expected="each id in one file",
            remedy="change the ids in one of them",
        )


def _tenth(group: str) -> bool:
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % HELD_OUT_EVERY == 0


def _found(folder: Path | None, entry: Mapping[str, Any]) -> Path:
    name = str(entry["file"])
    if folder is None or not (folder / name).is_file():
        raise InputError(
            f"the training data '{name}' is not there",
            found="no --data" if folder is None else f"no file {folder / name}",
            expected="the files that the recipe names",
            remedy="give their folder with --data (docs/realignment.md says where they come from), or take them out of "
            "the recipe",
        )
    digest = sha256_file(folder / name)
    if entry.get("sha256") not in (None, digest):
        raise InputError(
            f"the training data '{name}' is not the file that the recipe names",
            found=digest,
            expected=entry["sha256"],
            remedy="get that version, or correct the recipe",
        )
    return folder / name


def _read(file: Path, entry: Mapping[str, Any], seed: int) -> list[Request]:
    kind = entry.get("kind")
    if kind not in (None, HARMFUL, BENIGN):
        raise ConfigError(f"{file.name}: unknown kind", found=kind, expected=f"{HARMFUL} or {BENIGN}")
    prompts = load_prompts(file, kind=kind).prompts
    answers = _answers(file)
    requests = [
        Request(prompt.id, prompt.text, prompt.kind, answers.get(prompt.id), _group(prompt)) for prompt in prompts
    ]
    limit = entry.get("limit")
    return requests if limit is None else random.Random(seed).sample(requests, min(limit, len(requests)))


def _group(prompt: Prompt) -> str:
    return prompt.id if prompt.twin is None else min(prompt.id, prompt.twin)


def _answers(file: Path) -> dict[str, str]:
    columns, rows = read_table(file, file.read_bytes())
    return {row["id"]: row["answer"] for row in rows if row.get("answer")} if {"id", "answer"} <= {*columns} else {}
