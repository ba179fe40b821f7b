"""A runtime that answers from a table, for tests that need no bundle."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from jetson_runtime.ladder import Ladder

LADDER = [{"name": "d1", "vision": 4, "decoder": 10}, {"name": "d2", "vision": 12, "decoder": 30}]


@dataclass(frozen=True)
class FakeDepth:
    name: str


@dataclass(frozen=True)
class FakeToken:
    depth: str


@dataclass(frozen=True)
class FakeAnswer:
    text: str
    tokens: tuple[FakeToken, ...]
    depth: FakeDepth
    finish_reason: str = "stop"


class FakeChain:
    """Every letter is as likely as any other, but for an I, which is the likelier the deeper the exit."""

    model = SimpleNamespace(kv_capacity=512)

    def step(self, token_id: int, position: int, decoder_exit: int) -> np.ndarray:
        logits = np.zeros(128, np.float32)
        logits[ord("I")] = decoder_exit / 10
        return logits


class FakePrompter:
    """One token per letter."""

    @property
    def tokenizer(self) -> FakePrompter:
        return self

    def encode(self, text: str, add_special_tokens: bool) -> SimpleNamespace:
        return SimpleNamespace(ids=[ord(letter) for letter in text])

    def __call__(self, text: str, *, with_image: bool) -> SimpleNamespace:
        return SimpleNamespace(token_ids=tuple(ord(letter) for letter in text))


@dataclass
class FakeRuntime:
    """Refuses texts with the word 'forbidden' at d2 only, says nothing to 'empty', else answers."""

    seen: list[Any] = field(default_factory=list, repr=False)
    answered_at: str | None = None
    ladder: list[dict[str, Any]] = field(default_factory=lambda: LADDER)
    chain: FakeChain = field(default_factory=FakeChain)
    bundle: Any = field(default_factory=lambda: SimpleNamespace(prompter=FakePrompter))

    def __enter__(self) -> FakeRuntime:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {
            "model": {"id": "fake", "version": "1"},
            "release": 3,
            "bundle_digest": "ab" * 32,
            "engines_digest": "cd" * 32,
            "backend": "fake",
            "ladder": self.ladder,
            "kv_capacity": 512,
        }

    def invoke(self, request: Any) -> FakeAnswer:
        self.seen.append(request)
        if "empty" in request.prompt:
            text = ""
        elif "forbidden" in request.prompt and request.depth == "d2":
            text = "I'm sorry, but I can't help with that."
        else:
            text = "The sign is yellow."
        ladder = Ladder.from_dicts(self.ladder)
        point = ladder[request.depth] if request.schedule is None else ladder.schedule(request.schedule)
        spoke = [self.answered_at or point.depth_at(given).name for given in range(len(text.split()))]
        return FakeAnswer(text, tuple(map(FakeToken, spoke)), FakeDepth(self.answered_at or point.start.name))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """Stands in for whatever bundle is loaded."""
    import jetson_runtime

    fake = FakeRuntime()
    monkeypatch.setattr(jetson_runtime, "load", lambda path, *, backend, allow_unadmitted: fake)
    return fake


@pytest.fixture
def small_set(tmp_path: Path) -> Path:
    """Six pairs in two categories: three refused at d2, one answered with nothing."""
    rows = ["id,text,kind,category,twin"]
    for number in range(1, 7):
        word = "forbidden" if number <= 3 else "open"
        category = "first" if number % 2 else "second"
        rows.append(f"p{number}-h,{word} secret request {number},harmful,{category},p{number}-b")
        rows.append(
            f"p{number}-b,{'empty' if number == 6 else 'friendly'} request {number},benign,{category},p{number}-h"
        )
    path = tmp_path / "small.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
