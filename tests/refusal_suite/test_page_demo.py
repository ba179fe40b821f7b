"""What `make demo` asks for: both columns, and only depths whose decoder exit was trained."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def ladder(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "demo" / name).read_text(encoding="utf-8"))["ladder"]
    return found


def test_the_ladder_has_only_decoder_exits_that_were_trained() -> None:
    recipe = yaml.safe_load((ROOT / "realignment/recipes/reference.yaml").read_text(encoding="utf-8"))
    depths = ladder("build.yaml")
    full = depths[-1]["decoder"]
    assert {depth["decoder"] for depth in depths} <= {*recipe["exits"]["exits"], full}
    assert {depth["decoder"] for depth in depths} <= set(recipe["ppo"]["decoder_exits"])
    assert {depth["vision"] for depth in depths} <= set(recipe["ppo"]["vision_exits"])
    assert ladder("build-rtx.yaml") == depths


def test_both_checkpoints_are_measured_alike_and_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    demo = runpy.run_path(str(ROOT / "demo" / "run.py"))
    commands: list[list[str]] = []
    names = demo["measure_refusals"].__globals__
    monkeypatch.setitem(names, "run", lambda *words, **_: commands.append([str(word) for word in words]))
    before, after = demo["measure_refusals"]()
    export, *asked = commands
    assert export[:3] == ["engine-build", "export", str(demo["ALIGNED"])]
    assert [command[2] for command in asked] == [str(demo["BUNDLE_ALIGNED"]), str(demo["BUNDLE"])]
    assert [command[-1] for command in asked] == [str(before), str(after)]
    assert asked[0][3:-1] == asked[1][3:-1]
