"""The live curve: rows come one by one, and a run that goes on finds them as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetson_runtime.errors import StorageError
from realignment.curve import Curve

COLUMNS = ("stage", "step", "reward")


def row(step: int, reward: str = "0.5") -> dict[str, str]:
    return {"stage": "ppo", "step": str(step), "reward": reward}


def test_rows_are_read_as_they_were_added(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", COLUMNS)
    assert curve.rows() == []
    curve.add(row(1))
    curve.add({"stage": "ppo", "step": "2"})
    assert Curve(curve.file, COLUMNS).rows() == [row(1), row(2, "")]
    assert curve.file.read_bytes() == b"stage,step,reward\r\nppo,1,0.5\r\nppo,2,\r\n"


def test_cutting_drops_the_later_rows_of_that_stage_only(tmp_path: Path) -> None:
    curve = Curve(tmp_path / "curve.csv", COLUMNS)
    curve.cut("ppo", 0)
    assert not curve.file.exists()
    for each in ({**row(9), "stage": "exits"}, row(1), row(2), row(3)):
        curve.add(each)
    curve.cut("ppo", 1)
    assert [(each["stage"], each["step"]) for each in curve.rows()] == [("exits", "9"), ("ppo", "1")]


def test_a_first_row_comes_with_its_header_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run killed between creating the file and its header left one that lost the next run's first row."""
    curve = Curve(tmp_path / "curve.csv", COLUMNS)

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StorageError):
            curve.add(row(1))
    assert list(tmp_path.iterdir()) == []
    curve.add(row(1))
    assert curve.rows() == [row(1)]
