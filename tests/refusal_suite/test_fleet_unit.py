"""A unit's key: the same for everything that can't change an answer, another for everything that can."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetson_runtime.bundle import CHAT_TEMPLATE, PREPROCESSING, TOKENIZER, open_bundle
from jetson_runtime.files import canonical_json
from jetson_runtime.ladder import Depth, Ladder, Schedule
from jetson_runtime.manifest import FileRecord, Manifest
from refusal_suite.fleet.unit import Basis, Part, Unit

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
digests = st.dictionaries(words, words, max_size=3)
parts = st.builds(Part, words, st.none() | words)
bases = st.builds(
    Basis,
    bundle=words,
    operation=st.tuples(*[st.integers(0, 99)] * 4) | st.tuples(*[st.integers(0, 99)] * 3),
    judge=words,
    margins=words,
    max_tokens=st.integers(1, 999),
    threads=st.integers(1, 64),
    backend=words,
    software=digests,
)
units = st.builds(Unit, bases, words, st.lists(parts, max_size=4).map(tuple))


@settings(deadline=None)
@given(units)
def test_a_unit_comes_back_from_json_with_its_key(unit: Unit) -> None:
    again = Unit.from_dict(json.loads(canonical_json(unit.to_dict())))

    assert again == unit
    assert again.key == unit.key


@settings(deadline=None)
@given(units, units)
def test_equal_keys_are_equal_units(one: Unit, other: Unit) -> None:
    assert (one.key == other.key) == (one == other)
    assert (one.group == other.group) == ((one.basis, one.prompt_set) == (other.basis, other.prompt_set))


@settings(deadline=None)
@given(bases, bases)
def test_every_field_of_the_basis_counts(basis: Basis, other: Basis) -> None:
    unit = Unit(basis, "set", (Part("p", None),))
    for field in fields(Basis):
        changed = replace(basis, **{field.name: getattr(other, field.name)})
        assert (replace(unit, basis=changed).key == unit.key) == (changed == basis), field.name


def test_the_parts_and_their_order_count() -> None:
    basis = Basis("", (1, 2, 0, 2), "judge", "margins", 8, 1, "onnxruntime", {})
    one, two, seen = Part("p1", None), Part("p2", None), Part("p1", "ab" * 32)

    keys = {Unit(basis, "set", some).key for some in ((one, two), (two, one), (one,), (seen, two), ())}

    assert len(keys) == 5
    assert Unit(basis, "another set", (one,)).key != Unit(basis, "set", (one,)).key


def test_names_decide_nothing_and_the_vision_exit_only_with_a_picture() -> None:
    def basis(point: Depth | Schedule, picture: bool) -> Basis:
        return Basis.of({}, point, "rules-1", picture=picture, max_tokens=8, threads=1)

    shallow, deep = Depth("d1", 4, 10), Depth("d2", 12, 10)
    assert basis(shallow, True) == basis(Depth("other", 4, 10), True)
    assert basis(shallow, True) != basis(deep, True)
    assert basis(shallow, False) == basis(deep, False) == basis(Schedule(deep, shallow, 4), False)
    assert basis(shallow, False) != basis(Depth("d1", 4, 11), False)


@pytest.fixture
def manifest(tiny_bundle: Callable[[str, str], Path]) -> Manifest:
    return open_bundle(tiny_bundle("clip-llama", "fp32")).manifest


def test_what_can_change_an_answer_changes_the_digests(manifest: Manifest) -> None:
    before = manifest.answers_digest
    places = [manifest.engines[0].path, TOKENIZER, CHAT_TEMPLATE, PREPROCESSING]
    places += [path for path, record in manifest.files.items() if record.role == "weights"]
    changed = [
        replace(manifest, files={**manifest.files, path: replace(manifest.files[path], sha256="00" * 32)})
        for path in places
    ]
    changed.append(replace(manifest, model=replace(manifest.model, kv_capacity=manifest.model.kv_capacity + 1)))
    changed.append(replace(manifest, model=replace(manifest.model, stop_token_ids=(0,))))
    changed.append(replace(manifest, engines=manifest.engines[::-1]))

    for other in changed:
        assert other.answers_digest != before


def test_what_can_t_change_an_answer_keeps_the_digests(manifest: Manifest) -> None:
    profile = {"profiles/cpu.0123456789ab.json": FileRecord("profile", 1, "11" * 32)}
    renamed = Ladder(tuple(replace(depth, name=f"x{depth.name}") for depth in manifest.ladder))

    for other in (
        replace(manifest, release=manifest.release + 1),
        replace(manifest, ladder=renamed),
        replace(manifest, model=replace(manifest.model, id="other", version="9")),
        replace(manifest, files={**manifest.files, **profile}),
        replace(manifest, admissions={"schema": "any"}),
    ):
        assert other.answers_digest == manifest.answers_digest
