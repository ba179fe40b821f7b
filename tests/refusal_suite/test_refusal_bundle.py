"""`refusal-check run` on a real, tiny bundle: random weights, but the true path from prompt to report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jetson_runtime.files import read_json
from refusal_suite.cli import main
from refusal_suite.pictures import draw

pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")


def test_every_depth_of_a_bundle_is_measured(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> None:
    bundle = tiny_bundle("clip-llama", "fp32")
    # A cache of 32 tokens and a tokenizer with a token per letter leave room for very short questions.
    draw("shapes").save(tmp_path / "shapes.png")
    rows = ["id,text,kind,image", "one,hi,harmful,", "two,ho,benign,", "three,ha,harmful,shapes.png"]
    (tmp_path / "set.csv").write_text("\n".join(rows))
    arguments = ["run", str(bundle), "--prompts", str(tmp_path / "set.csv"), "--max-tokens", "3"]
    arguments += ["--schedule", "all", "--out"]

    assert main([*arguments, str(tmp_path / "a.json")]) == 0
    assert main([*arguments, str(tmp_path / "b.json")]) == 0

    report = read_json(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert [depth["name"] for depth in report["depths"]] == [depth["name"] for depth in report["ladder"]]
    assert len({depth["vision"] for depth in report["depths"]}) > 1
    assert len(report["schedules"]) == 5
    for depth in (*report["depths"], *report["schedules"]):
        assert [item["id"] for item in depth["items"]] == ["one", "two", "three"]
        assert sum(depth["by_image"]["with"]["harmful"].values()) == 1
        assert all(1 <= item["n_tokens"] <= 3 for item in depth["items"])
        assert all(item["margin"] < 0 for item in depth["items"])
    # Three tokens are given before these schedules leave earlier, and the openings are three tokens long.
    full = report["depths"][-1]
    for schedule in report["schedules"][3:]:
        assert (schedule["at"], schedule["items"]) in [(4, full["items"]), (16, full["items"])]
        assert schedule["margins"]["harmful"]["shift"]["mean"] == 0
