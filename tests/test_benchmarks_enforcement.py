"""The claim about what is not admitted: its count stays at 0, and sees what it is there to see."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.enforcement import drive, mixed_bundles
from jetson_runtime import Runtime, generate, load

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, frozenset[str]]:
    return next(mixed_bundles(tmp_path_factory.mktemp("mixed"), 1))


def loaded(path: Path, **options: bool) -> Runtime:
    return load(path, backend="simulated", profile=path.parent / "profile.json", **options)


def test_nothing_that_is_not_admitted_gives_a_token(mixed: tuple[Path, frozenset[str]]) -> None:
    path, admitted = mixed
    found = drive(loaded(path), admitted, 200, random.Random(1))
    assert found["violations"] == 0
    assert min(found[name] for name in ("answered", "AdmissionError", "BudgetError")) > 20


def test_the_count_sees_tokens_from_what_is_not_admitted(mixed: tuple[Path, frozenset[str]]) -> None:
    path, admitted = mixed
    assert drive(loaded(path, allow_unadmitted=True), admitted, 100, random.Random(1))["violations"] > 20


def test_the_count_sees_engines_that_were_left_elsewhere(
    mixed: tuple[Path, frozenset[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, admitted = mixed
    runtime, answer = loaded(path), generate.run
    shallowest = runtime.bundle.manifest.ladder["d1"]
    monkeypatch.setattr(
        generate,
        "run",
        lambda chain, prompter, job, cancelled: answer(chain, prompter, replace(job, point=shallowest), cancelled),
    )
    assert drive(runtime, admitted, 100, random.Random(1))["violations"] > 20
