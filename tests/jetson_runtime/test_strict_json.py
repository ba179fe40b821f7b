"""Strict JSON: one text per value, bounded before anything is built from it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime.errors import BundleError
from jetson_runtime.files import canonical_json
from jetson_runtime.strict_json import MAX_DEPTH, Document

DOCUMENT = Document("thing", 2000, BundleError, "do something")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_canonical_text_is_read_and_any_other_layout_of_it_is_not(value: Any) -> None:
    document = Document("thing", 1 << 20, BundleError, "do something")
    text = canonical_json(value)
    assert document.parse(text.encode(), "there") == value
    for other in (json.dumps(value), json.dumps(value, indent=2), text + " ", text[:-1], "\ufeff" + text):
        with pytest.raises(BundleError):
            document.parse(other.encode(), "there")


def nested(levels: int) -> str:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return canonical_json(value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'{\n "a": 1,\n "a": 2\n}\n', "has a key twice\n  found: 'a'"),
        (b'{\n "b": {\n  "a": 1,\n  "a": 1\n }\n}\n', "has a key twice\n  found: 'a'"),
        (nested(MAX_DEPTH + 1).encode(), f"nested too deeply\n  expected: at most {MAX_DEPTH} levels"),
        (b"[" * 900 + b"]" * 900, "nested too deeply"),
        (b"\xff\n", "not UTF-8\n  found: byte 0"),
        (b'"\xed\xa0\x80"\n', "not UTF-8"),
        (b"1" * 2001, "too large for a thing\n  found: more than 2000 bytes"),
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"NaN\n", "not JSON\n  found: NaN"),
        (b"[\n Infinity\n]\n", "not JSON\n  found: Infinity"),
        (b"1e999\n", "canonical"),
        (b'"\\ud800"\n', "canonical"),
        (b'"\\u0041"\n', "canonical"),
        (b'"\\/"\n', "canonical"),
        (b"1.50\n", "canonical"),
        (b"1E2\n", "canonical"),
        (b"-0\n", "canonical"),
        (b'{\n "b": 1,\n "a": 2\n}\n', "canonical"),
        (b"1\r\n", "canonical"),
        (b"\xef\xbb\xbf1\n", "not JSON"),
    ],
)
def test_every_other_text_is_refused_for_its_own_reason(data: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=words) as refused:
        DOCUMENT.parse(data, "there")
    assert refused.value.remedy == "do something"


def test_the_deepest_and_the_longest_that_are_read() -> None:
    DOCUMENT.parse(nested(MAX_DEPTH).encode(), "there")
    assert DOCUMENT.parse(b"1" * 999 + b"\n", "there") == int("1" * 999)


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(BundleError, match=r"not JSON|canonical"):
        Document("thing", 1 << 20, BundleError, "do something").parse(b"1" * 100_000 + b"\n", "there")


def test_no_more_is_read_than_the_bound_and_nothing_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"1" * 2001)
    with pytest.raises(BundleError, match="too large for a thing"):
        DOCUMENT.read(tmp_path / "large")
    (tmp_path / "large").write_bytes(b"1" * 2000)
    assert DOCUMENT.read(tmp_path / "large") == b"1" * 2000
    assert DOCUMENT.read(tmp_path / "nothing") is None
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("large")
    (tmp_path / "folder").mkdir()
    for name, found in (("pipe", "no regular file"), ("folder", "no regular file"), ("link", "a symbolic link")):
        with pytest.raises(BundleError, match=f"{name} can't be read\n  found: {found}"):
            DOCUMENT.read(tmp_path / name)
