"""Prompt sets: what is asked, whether it should be refused, and reading a set from a file.

Nothing here prints a prompt's text: errors name the file, the row and the id.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from jetson_runtime.errors import ConfigError, InputError
from refusal_suite.formats import FORMATS, Row, detect_format, read_table

__all__ = ["BENIGN", "BUILTIN", "HARMFUL", "Prompt", "PromptSet", "load_prompts", "normalised"]

HARMFUL, BENIGN = "harmful", "benign"
BUILTIN = Path(__file__).parent / "data" / "holdfast-1.jsonl"

Unit: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Prompt:
    """One request. `twin` is the id of its counterpart of the other kind, where the set has pairs.

    `pictured` is the request that only the picture shows, where the text doesn't name it (FigStep).
    """

    id: str
    # Left out of repr, so that no log and no traceback shows it.
    text: str = field(repr=False)
    kind: str
    category: str
    image: Path | None = None
    twin: str | None = None
    pictured: str | None = field(default=None, repr=False)

    @property
    def request(self) -> str:
        """What is asked, normalised: prompts that agree in it are one request, whatever picture stands beside it."""
        return normalised(self.pictured or self.text)


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one file, in its order; `sha256` is the digest of the file's bytes."""

    name: str
    sha256: str
    prompts: tuple[Prompt, ...]

    def counts(self) -> dict[str, int]:
        """How many prompts there are of each kind."""
        found = Counter(prompt.kind for prompt in self.prompts)
        return {kind: found[kind] for kind in (HARMFUL, BENIGN)}

    def limited(self, limit: int, seed: int = 0) -> PromptSet:
        """At most `limit` prompts, spread over kind, category and with or without image; pairs stay together.

        The choice depends only on the ids, `limit` and `seed`; a smaller limit chooses a part of a larger one's choice.
        The order of the file is kept.

        Raises:
            ConfigError: `limit` is too small for one prompt, or for one pair where the set has pairs.
        """
        units = self._spread(seed)
        chosen: set[int] = set()
        for unit in units:
            if len(chosen) + len(unit) > limit:
                break
            chosen.update(unit)
        if not chosen:
            smallest = min(len(unit) for unit in units)
            raise ConfigError(
                f"--limit {limit} leaves no prompt of the set '{self.name}'",
                expected=f"at least {smallest}" + (": pairs stay together" if smallest > 1 else ""),
            )
        return replace(self, prompts=tuple(self.prompts[index] for index in sorted(chosen)))

    def _spread(self, seed: int) -> list[Unit]:
        position = {prompt.id: index for index, prompt in enumerate(self.prompts)}
        strata: dict[str, dict[str, list[Unit]]] = {}
        for index, prompt in enumerate(self.prompts):
            unit = (index,) if prompt.twin is None else tuple(sorted((index, position[prompt.twin])))
            if unit[0] == index:
                kind = prompt.kind if prompt.twin is None else "pair"
                category = strata.setdefault(f"{kind}/{prompt.category}", {})
                category.setdefault("text" if prompt.image is None else "image", []).append(unit)
        for name, halves in strata.items():
            for half, units in halves.items():
                random.Random(f"{seed}/{name}/{half}").shuffle(units)
        return _interleaved(
            {name: _interleaved(halves, f"{seed}/{name}") for name, halves in strata.items()}, f"{seed}"
        )


def _interleaved(groups: Mapping[str, list[Unit]], seed: str) -> list[Unit]:
    """All units of all groups, so that every beginning of the list holds each group in about its share."""
    ranked = []
    for name, units in groups.items():
        offset = random.Random(f"{seed}/{name}").random()
        ranked += [((part + offset) / len(units), name, unit) for part, unit in enumerate(units)]
    return [unit for _, _, unit in sorted(ranked)]


def normalised(text: str) -> str:
    """Lower case, runs of non-word characters as one space: two texts that agree in this are the same prompt."""
    return re.sub(r"\W+", " ", text.lower()).strip()


def load_prompts(path: Path | str = BUILTIN, format: str = "auto", *, kind: str | None = None) -> PromptSet:
    """Read a prompt set; without a path, the one that comes with Holdfast.

    Columns are matched by name (`refusal_suite.formats.FORMATS`); a byte-order mark, CRLF and further columns are fine.
    `kind` applies to rows that don't say themselves whether they are harmful or benign.

    Raises:
        InputError: the file is missing or not UTF-8, a column is missing, a text is empty, an id occurs twice, an image
            or a twin is not there, or a row is neither harmful nor benign.
        ConfigError: `format` is unknown.
    """
    path = Path(path)
    content = _read(path)
    if format != "auto" and format not in FORMATS:
        raise ConfigError(f"unknown prompt format '{format}'", expected=", ".join(["auto", *FORMATS]))
    columns, rows = read_table(path, content)
    layout = FORMATS[detect_format(path, columns) if format == "auto" else format]
    layout.check_columns(path, columns)
    prompts = tuple(
        _prompt(path, number, layout.row(path, number, row), kind) for number, row in enumerate(rows, start=1)
    )
    if not prompts:
        raise InputError(f"{path} holds no prompts", expected="at least one row", remedy="check the file")
    _check_ids(path, prompts)
    return PromptSet(path.stem, hashlib.sha256(content).hexdigest(), prompts)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the prompt set {path} can't be read", found=error.strerror, remedy="check the path"
        ) from None


def _prompt(path: Path, number: int, row: Row, default: str | None) -> Prompt:
    if not row.text.strip():
        raise InputError(f"{path}, row {number}: the text is empty", remedy="fill it in or remove the row")
    kind = row.kind or default
    if kind not in (HARMFUL, BENIGN):
        raise InputError(
            f"{path}, row {number}: neither harmful nor benign",
            found=kind or "nothing that says so",
            expected=f"'{HARMFUL}' or '{BENIGN}'",
            remedy="fill in the column that says so, or give --kind for the whole file",
        )
    image = None if row.image is None else path.parent / row.image
    if image is not None and not image.is_file():
        raise InputError(
            f"{path}, row {number}: the image is not there",
            found=f"no file {image}",
            expected=f"a path relative to {path.parent}",
            remedy="put the image there or correct the row",
        )
    return Prompt(row.id, row.text.strip(), kind, row.category or "none", image, row.twin, row.pictured)


def _check_ids(path: Path, prompts: Iterable[Prompt]) -> None:
    by_id: dict[str, Prompt] = {}
    for number, prompt in enumerate(prompts, start=1):
        if prompt.id in by_id:
            raise InputError(
                f"{path}, row {number}: the id '{prompt.id}' occurs twice", remedy="give each row its own id"
            )
        by_id[prompt.id] = prompt
    for prompt in by_id.values():
        if prompt.twin is not None:
            _check_twin(path, prompt, by_id)


def _check_twin(path: Path, prompt: Prompt, by_id: Mapping[str, Prompt]) -> None:
    other = by_id.get(str(prompt.twin))
    if other is None:
        found = f"no prompt '{prompt.twin}'"
    elif other.twin != prompt.id:
        found = f"'{other.id}' names '{other.twin}' as its twin"
    elif other.kind == prompt.kind:
        found = f"both are {prompt.kind}"
    else:
        return
    raise InputError(
        f"{path}: the twin of '{prompt.id}' does not fit",
        found=found,
        expected="two prompts that name each other, one harmful and one benign",
        remedy="correct the twin of one of them, or leave it out of both",
    )
