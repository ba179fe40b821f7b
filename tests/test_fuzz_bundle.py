"""The fuzzing harness: it finds nothing on its seeds and on damaged ones, and it does notice what it is there for."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("atheris")

from benchmarks import fuzz_bundle
from benchmarks.fuzz_bundle import TARGETS, Genuine, seeds, words
from benchmarks.fuzzing import _RUNS
from jetson_runtime.dsse import Envelope
from jetson_runtime.trust import Trust, TrustedKey


@pytest.fixture(scope="module")
def genuine() -> Genuine:
    return Genuine.make()


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_is_found_on_the_seeds_and_on_damaged_ones(genuine: Genuine, target: str) -> None:
    draw = random.Random(0)
    for seed in seeds(target):
        TARGETS[target](genuine, seed)
        for _ in range(30):
            data = bytearray(seed)
            data[draw.randrange(len(data))] = draw.randrange(256)
            TARGETS[target](genuine, bytes(data))


def test_the_genuine_bundle_is_accepted_and_no_other(genuine: Genuine) -> None:
    assert genuine.accepts(genuine.manifest, genuine.envelope)
    assert not genuine.accepts(genuine.manifest, None)
    assert not genuine.accepts(genuine.manifest + b" ", genuine.envelope)


def test_edits_are_other_canonical_texts(genuine: Genuine) -> None:
    draw = random.Random(0)
    made = {fuzz_bundle.edited(genuine.manifest, draw.randbytes(32)) for _ in range(50)}
    assert len(made) > 40


@pytest.mark.parametrize(
    ("target", "patch", "words"),
    [
        ("manifest", ("accept", lambda *_: ("key",)), "manifest signed by a foreign key"),
        ("envelope", ("check_subject", lambda *_: None), "foreign payload"),
        ("trust", ("accept", lambda *_: ("key",)), "none of its keys made"),
    ],
)
def test_a_reader_that_accepts_too_much_is_noticed(
    genuine: Genuine, target: str, patch: tuple[str, object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Envelope if target == "envelope" else Trust, *patch)
    if target == "envelope":
        monkeypatch.setattr(fuzz_bundle, "check_manifest", lambda *_: None)
    data = Trust((TrustedKey(bytes(32)),)).to_dict()
    given = {"manifest": seeds("manifest")[0], "envelope": b"{}", "trust": fuzz_bundle.canonical_json(data).encode()}
    with pytest.raises(RuntimeError, match=words):
        TARGETS[target](genuine, given[target])


def test_the_claim_runs_every_target_a_million_times_in_all() -> None:
    assert set(_RUNS) == set(TARGETS) and sum(_RUNS.values()) >= 1_000_000
    assert all(isinstance(words(target), list) for target in TARGETS)
