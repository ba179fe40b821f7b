"""Reading answers and compiled bundles for the report page; every mistake names the file and the place."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

from jetson_runtime.bundle import MANIFEST
from jetson_runtime.errors import InputError
from jetson_runtime.files import read_json
from jetson_runtime.image import open_image
from jetson_runtime.manifest import Manifest
from refusal_suite.prompts import BUILTIN, HARMFUL, load_prompts, normalised

__all__ = ["Asked", "Question", "number", "picture_uri", "read_answers", "read_engines"]

_PICTURE_SIDE = 320  # pixels: sharp on a phone, and a dozen pictures stay far below a megabyte


@dataclass(frozen=True)
class Asked:
    """One answer, or the error in place of it, under one budget (None: no budget)."""

    budget_ms: float | None
    error: str | None = None
    text: str = ""
    depth: str = ""
    exits: str = ""
    changes: tuple[str, ...] = ()
    tokens: int = 0
    finish_reason: str = ""
    predicted_ms: float | None = None
    first_token_ms: float | None = None
    elapsed_ms: float | None = None


@dataclass(frozen=True)
class Question:
    """A question with everything that was answered to it. A harmful one has only its id: no text and no answers."""

    words: str
    picture: str | None
    picture_name: str | None
    asked: tuple[Asked, ...]
    harmful_id: str | None
    prompt_tokens: int | None


def read_engines(path: Path) -> Manifest:
    """The manifest of an engine bundle; the engines themselves need not lie there, and are not read.

    Raises:
        InputError: no manifest. BundleError: one that does not hold together.
    """
    source = path / MANIFEST if path.is_dir() else path
    return Manifest.from_dict(read_json(source), str(source))


def read_answers(path: Path) -> list[Question]:
    """A list of {question, image, budget_ms, answer | error}; equal questions in a row become one.

    `answer` is what `jetson-runtime ask --json` prints, `image` a path from the file's own folder or from
    the current one.

    Raises:
        InputError: an entry that is not of this form, or a picture that can't be read.
    """
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise _mistake(
            path, "the file", type(entries).__name__, "a list of objects with question, budget_ms and answer"
        )
    harmful = {normalised(item.text): item.id for item in load_prompts(BUILTIN).prompts if item.kind == HARMFUL}
    questions: list[Question] = []
    for index, entry in enumerate(entries):
        question = _question(path, f"entry {index + 1}", entry, harmful)
        last = questions[-1] if questions else None
        if last is not None and (last.words, last.picture) == (question.words, question.picture):
            asked = (*last.asked, *question.asked)
            tokens = last.prompt_tokens or question.prompt_tokens
            question = Question(last.words, last.picture, last.picture_name, asked, last.harmful_id, tokens)
            questions.pop()
        questions.append(question)
    return questions


def _question(path: Path, where: str, entry: Any, harmful: Mapping[str, str]) -> Question:
    if not isinstance(entry, dict) or ("answer" in entry) == ("error" in entry):
        raise _mistake(path, where, "another form", "an object with question, budget_ms and either answer or error")
    words = _word(path, where, entry, "question")
    image = entry.get("image")
    picture = None if image is None else picture_uri(_found(path, where, _word(path, where, entry, "image")))
    budget = number(path, where, entry, "budget_ms", optional=True)
    harmful_id = harmful.get(normalised(words))
    answer = entry.get("answer")
    asked = _answer(path, where, answer, budget) if "answer" in entry else Asked(budget, _error(path, where, entry))
    tokens = answer["prompt_tokens"] if isinstance(answer, dict) else None
    name = None if image is None else Path(image).stem.replace("_", " ")
    return Question(words, picture, name, () if harmful_id else (asked,), harmful_id, tokens)


def _found(path: Path, where: str, image: str) -> Path:
    for candidate in (path.parent / image, Path(image)):
        if candidate.is_file():
            return candidate
    raise _mistake(path, where, f"no picture {image}", "a path from the file's own folder or from the current one")


def _answer(path: Path, where: str, value: Any, budget: float | None) -> Asked:
    if not isinstance(value, dict) or not isinstance(value.get("depth"), dict):
        raise _mistake(path, where, "an answer without a depth", "what 'jetson-runtime ask --json' prints")
    tokens, depth = value.get("tokens"), value["depth"]
    if not isinstance(tokens, list) or not all(isinstance(token, dict) for token in tokens):
        raise _mistake(path, where, "an answer without tokens", "a list of objects")
    number(path, where, value, "prompt_tokens")
    names = [_word(path, where, token, "depth") for token in tokens]
    changes = tuple(
        f"{after} from token {n + 2}" for n, (before, after) in enumerate(pairwise(names)) if before != after
    )
    exits = [number(path, where, depth, tower) for tower in ("vision", "decoder")]
    return Asked(
        budget_ms=budget,
        text=_word(path, where, value, "text"),
        depth=_word(path, where, depth, "name"),
        exits=f"vision {exits[0]}, decoder {exits[1]}",
        changes=changes,
        tokens=len(tokens),
        finish_reason=_word(path, where, value, "finish_reason"),
        predicted_ms=number(path, where, value, "predicted_ms", optional=True),
        first_token_ms=number(path, where, value, "first_token_ms", optional=True),
        elapsed_ms=number(path, where, value, "elapsed_ms"),
    )


def _error(path: Path, where: str, entry: Mapping[str, Any]) -> str:
    error = entry["error"]
    if isinstance(error, dict):
        error = error.get("message", error.get("what"))
    if not isinstance(error, str):
        raise _mistake(path, where, f"error = {error!r}", "a text")
    return error


def number(path: Path, where: str, value: Mapping[str, Any], name: str, *, optional: bool = False) -> Any:
    """The finite number `name` of an object in a JSON file; None only where it is optional.

    Raises:
        InputError: something else stands there.
    """
    found = value.get(name)
    if found is None and optional:
        return None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < float("inf"):
        raise _mistake(path, where, f"{name} = {found!r}", "a number that is not negative")
    return found


def _word(path: Path, where: str, value: Mapping[str, Any], name: str) -> str:
    found = value.get(name)
    if not isinstance(found, str):
        raise _mistake(path, where, f"{name} = {found!r}", "a text")
    return found


def _mistake(path: Path, where: str, found: str, expected: str) -> InputError:
    return InputError(
        f"{path}: {where} can't be used", found=found, expected=expected, remedy="run the command that wrote it again"
    )


def picture_uri(path: Path) -> str:
    """The picture, made small, as a `data:` address: PNG or JPEG, whichever is shorter.

    Raises:
        InputError: the picture can't be read.
    """
    image = open_image(path)
    image.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    forms: Sequence[tuple[str, dict[str, Any]]] = (("png", {"optimize": True}), ("jpeg", {"quality": 82}))
    encoded = [(_encoded(image, name, options), name) for name, options in forms]
    data, name = min(encoded, key=lambda item: len(item[0]))
    return f"data:image/{name};base64,{base64.b64encode(data).decode()}"


def _encoded(image: Image.Image, name: str, options: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()
