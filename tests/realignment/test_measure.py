"""The accuracies that ship: which questions are asked, and that the record belongs to the projector."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from jetson_runtime.errors import ConfigError
from realignment.assemble import PROJECTOR_FILE, PROJECTOR_RECORD
from realignment.cli import main
from realignment.easy_vqa import KINDS
from realignment.packages import EASY_VQA, fetch
from realignment.recipe import PROJECTOR_RECIPE, read_recipe
from realignment.visual_questions import accuracy_by_exit, accuracy_table, drawn_questions


@pytest.fixture(scope="module")
def data(reference_cache: Path) -> Path:
    return fetch(EASY_VQA, reference_cache)


def record() -> dict[str, Any]:
    return json.loads(PROJECTOR_RECORD.read_text(encoding="utf-8"))


def test_the_sample_is_seeded_and_even_over_pictures(data: Path) -> None:
    drawn = drawn_questions(data, 60, 1)
    assert drawn == drawn_questions(data, 60, 1)
    sample = drawn.by_picture
    assert sample != drawn_questions(data, 60, 2).by_picture
    assert sum(drawn.asked().values()) == len(drawn.all) == 60
    assert sum(len(asked) for asked in sample.values()) == 60
    assert max(len(asked) for asked in sample.values()) <= 6
    assert 10 <= len(sample) <= 13
    assert {question.kind for asked in sample.values() for question in asked} == set(KINDS)


@pytest.mark.parametrize("count", [0, 6001])
def test_a_sample_that_cannot_be_drawn_is_refused(count: int, data: Path) -> None:
    with pytest.raises(ConfigError, match="can't be drawn"):
        drawn_questions(data, count, 0)


def test_the_shipped_projector_sees_at_its_own_exit_and_less_at_a_shallow_one(
    reference: SimpleNamespace, data: Path
) -> None:
    accuracy = accuracy_by_exit(reference.model, reference.processor, data, questions=24, seed=3, exits=(1, 12))
    deep, shallow = accuracy["exits"]["12"]["right"], accuracy["exits"]["1"]["right"]
    open_kinds = ("colour", "shape")
    asked = sum(accuracy["asked"][kind] for kind in open_kinds)
    assert sum(deep[kind] for kind in open_kinds) >= 0.6 * asked
    assert sum(shallow[kind] for kind in open_kinds) < sum(deep[kind] for kind in open_kinds)


def test_the_record_tells_how_the_projector_was_trained() -> None:
    recipe, told = read_recipe(PROJECTOR_RECIPE), record()
    assert told["recipe"]["sha256"] == recipe.sha256
    assert told["packages"]["data"]["payload_sha256"] == EASY_VQA.payload_sha256
    assert told["trained"] is True
    accuracy = told["accuracy"]
    assert set(accuracy["exits"]) == {str(layer) for layer in range(1, 13)}
    assert sum(accuracy["asked"].values()) == accuracy["questions"] >= 480
    for row in accuracy["exits"].values():
        assert all(0 <= row["right"][kind] <= accuracy["asked"][kind] for kind in KINDS)


def test_what_ships_is_small() -> None:
    assert PROJECTOR_FILE.stat().st_size < 2_500_000


def test_the_table_has_a_line_per_exit_and_shares_that_follow_from_the_counts() -> None:
    accuracy = {
        "asked": {"colour": 4, "shape": 5, "yes/no": 0},
        "exits": {"1": {"estimate": 0.5, "right": {"colour": 1, "shape": 5, "yes/no": 0}}},
    }
    line = accuracy_table(accuracy).splitlines()[1].split()
    assert line == ["1", "25.0%", "100.0%", "-", "50.0%"]


def test_the_commands_say_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"seed": 1}), encoding="utf-8")
    assert main(["projector", "--recipe", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == 2
    assert "missing or unknown entries" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "curve.csv").write_text("stage,step\n", encoding="utf-8")
    assert main(["projector", "--out", str(tmp_path / "out")]) == 6
    assert "--resume" in capsys.readouterr().err


def test_assemble_does_not_write_over_what_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], reference_cache: Path
) -> None:
    (tmp_path / "mine").mkdir()
    assert main(["assemble", str(tmp_path / "mine"), "--cache", str(reference_cache)]) == 6
    assert "already exists" in capsys.readouterr().err
    assert not list((tmp_path / "mine").iterdir())
