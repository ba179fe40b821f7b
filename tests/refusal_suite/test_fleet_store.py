"""Units on disk: what was kept is found, and what is not byte for byte what was kept is not believed."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetson_runtime.errors import InputError, StorageError
from jetson_runtime.files import read_json, write_json
from refusal_suite.fleet.store import UnitStore, locked
from refusal_suite.fleet.unit import Basis, Part, Unit

BASIS = Basis("ab", (4, 10, 0, 10), "rules-1", "cd", 8, 1, "onnxruntime", {"numpy": "2"})
PARTS = (Part("p1", None), Part("p2", None), Part("p3", None))
UNIT = Unit(BASIS, "set", PARTS)


def entry(part: Part, label: str = "refusal") -> dict[str, Any]:
    return {"id": part.id, "label": label, "margin": -0.25, "n_tokens": 3}


ENTRIES = [entry(part) for part in PARTS]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("units")
    UnitStore(folder).keep(UNIT, ENTRIES)
    return folder / f"{UNIT.key}.json"


def test_what_was_kept_is_found_for_any_unit_of_its_group(kept: Path) -> None:
    store = UnitStore(kept.parent)

    assert store.damaged == []
    assert store.known(Unit(BASIS, "set", ())) == dict(zip(PARTS, ENTRIES, strict=True))
    assert store.known(Unit(BASIS, "another set", PARTS)) == {}


def test_a_directory_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert UnitStore(tmp_path / "units").known(UNIT) == {}


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_changed_byte_is_believed(kept: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    content = bytearray(kept.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / kept.name).write_bytes(content)

    store = UnitStore(folder)

    assert store.damaged == [kept.name]
    assert store.known(UNIT) == {}
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"unit": {"basis": {}, "parts": 3}}']
)
def test_what_is_no_unit_is_not_believed(tmp_path: Path, content: bytes) -> None:
    (tmp_path / f"{UNIT.key}.json").write_bytes(content)

    assert UnitStore(tmp_path).damaged == [f"{UNIT.key}.json"]


def test_a_unit_under_another_s_name_is_not_believed(kept: Path, tmp_path: Path) -> None:
    other = Unit(BASIS, "set", PARTS[:2])
    shutil.copy(kept, tmp_path / f"{other.key}.json")

    assert UnitStore(tmp_path).damaged == [f"{other.key}.json"]


def test_answers_to_other_prompts_are_not_believed(kept: Path, tmp_path: Path) -> None:
    from refusal_suite.fleet.unit import digest

    value = read_json(kept)
    value["items"][0]["id"] = "p9"
    value["items_sha256"] = digest(value["items"])
    write_json(tmp_path / kept.name, value)

    assert UnitStore(tmp_path).damaged == [kept.name]


def test_two_units_that_contradict_each_other_are_refused(kept: Path, tmp_path: Path) -> None:
    shutil.copy(kept, tmp_path)
    store = UnitStore(tmp_path)

    with pytest.raises(InputError, match="different answers to prompt 'p2'"):
        store.keep(Unit(BASIS, "set", PARTS[1:]), [entry(PARTS[1], "compliance"), entry(PARTS[2])])
    with pytest.raises(InputError, match="different answers to prompt 'p2'"):
        UnitStore(tmp_path)


def test_a_directory_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    with locked(tmp_path):
        other = context.Process(target=_try, args=(tmp_path,))
        other.start()
        other.join()
        assert other.exitcode == StorageError.exit_code
    with locked(tmp_path):
        pass


def _try(folder: Path) -> None:
    try:
        with locked(folder):
            pass
    except StorageError as error:
        raise SystemExit(error.exit_code) from None


def test_a_place_that_can_t_be_written_is_an_error() -> None:
    with pytest.raises(StorageError), locked(Path("/dev/null/sweep")):
        pass
