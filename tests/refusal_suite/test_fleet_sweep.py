"""A sweep on a tiny real bundle: the same bytes however it came about, and nothing computed twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from sweeping import PROMPTS, AlwaysRefusal, Counting, SweepFolder, make_folder, result_bytes

from jetson_runtime.files import read_json
from refusal_suite.cli import main
from refusal_suite.fleet.work import InProcess

pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Callable[[str, str], Path]) -> SweepFolder:
    return make_folder(tmp_path, tiny_bundle("clip-llama", "fp32"))


def test_the_report_is_that_of_a_run_without_the_machine(folder: SweepFolder) -> None:
    folder.sweep("out", schedules="all")
    arguments = ["--prompts", folder.path / "set.csv", "--schedule", "all", "--max-tokens", 3]
    assert main(list(map(str, ["run", folder.bundle, "--out", folder.path / "run.json", *arguments]))) == 0

    run = read_json(folder.path / "run.json")
    assert run.pop("machine")
    assert read_json(folder.path / "out" / "tiny.json") == run


def test_two_sweeps_give_the_same_bytes_and_no_text(folder: SweepFolder) -> None:
    for name in ("a", "b"):
        folder.sweep(name)

    results = result_bytes(folder.path / "a")
    assert results == result_bytes(folder.path / "b")
    # Per depth: 9 prompts without a picture and 3 with one, in chunks of 2.
    assert len([name for name in results if name.startswith("units/")]) == 2 * (5 + 2)
    assert not [name for name, content in results.items() if b"zq1" in content]


def test_what_is_there_is_not_computed_again(folder: SweepFolder) -> None:
    folder.sweep("out")
    before = result_bytes(folder.path / "out")
    executor = Counting()
    swept = folder.sweep("out", executor)

    assert executor.jobs == [] and not executor.closed
    assert (swept.run["answers"], swept.run["answers_computed"]) == (2 * PROMPTS, 0)
    assert result_bytes(folder.path / "out") == before


def test_a_sweep_goes_on_where_ctrl_c_ended_it(folder: SweepFolder) -> None:
    folder.sweep("whole")
    interrupted = Counting(interrupted_after=3)
    with pytest.raises(KeyboardInterrupt):
        folder.sweep("out", interrupted)
    assert interrupted.closed
    assert len(result_bytes(folder.path / "out")) == 3

    rest = Counting()
    folder.sweep("out", rest)

    assert len(rest.jobs) == 14 - 3
    assert not {job.unit.key for job in rest.jobs} & {job.unit.key for job in interrupted.jobs}
    assert result_bytes(folder.path / "out") == result_bytes(folder.path / "whole")


def test_overlapping_sweeps_share_what_they_have_in_common(folder: SweepFolder) -> None:
    part = folder.sweep("out", depths=["d1"], prompts=[{"file": "set.csv", "limit": 5}], chunk=3)
    assert part.run["answers_computed"] == 5
    more = folder.sweep("out")
    assert more.run["answers_computed"] == 2 * PROMPTS - 5
    # A text is asked once for depths and schedules that leave the decoder at the same exits.
    schedules = folder.sweep("out", depths=[], schedules=["d2>d1@vision"])
    assert schedules.run["answers_computed"] == 3

    folder.sweep("fresh")
    report = "tiny.json"
    assert folder.sweep("out").run["answers_computed"] == 0
    assert (folder.path / "out" / report).read_bytes() == (folder.path / "fresh" / report).read_bytes()


def test_a_damaged_unit_is_named_and_computed_again(folder: SweepFolder) -> None:
    folder.sweep("out")
    before = result_bytes(folder.path / "out")
    name = next(name for name in before if name.startswith("units/"))
    (folder.path / "out" / name).write_bytes(before[name].replace(b'"finish_reason": "', b'"finish_reason": "x', 1))

    executor = Counting()
    swept = folder.sweep("out", executor)

    assert [f"units/{job.unit.key}.json" for job in executor.jobs] == [name]
    assert swept.run["units_damaged"] == [name.removeprefix("units/")]
    assert result_bytes(folder.path / "out") == before


def test_another_length_of_answers_is_another_sweep(folder: SweepFolder) -> None:
    folder.sweep("out")

    assert folder.sweep("out", max_tokens=2).run["answers_computed"] == 2 * PROMPTS


def test_two_bundles_have_a_report_each(folder: SweepFolder, tiny_bundle: Callable[[str, str], Path]) -> None:
    bundles = {"one": str(folder.bundle), "two": str(tiny_bundle("dinov2-mistral", "fp32"))}
    swept = folder.sweep("out", bundles=bundles, depths=["d1"])

    one, two = (read_json(folder.path / "out" / f"{name}.json") for name in bundles)
    assert one["bundle"]["engines_digest"] != two["bundle"]["engines_digest"]
    assert swept.run["answers_computed"] == 2 * PROMPTS


def test_another_judge_is_another_sweep(folder: SweepFolder) -> None:
    folder.sweep("out")
    rules = (folder.path / "out" / "tiny.json").read_bytes()
    swept = folder.sweep("out", InProcess(AlwaysRefusal), AlwaysRefusal.name)

    assert swept.run["answers_computed"] == 2 * PROMPTS
    report = read_json(folder.path / "out" / "tiny.json")
    assert report["judge"] == AlwaysRefusal.name
    assert {(item["label"], item["judge"]) for depth in report["depths"] for item in depth["items"]} == {
        ("refusal", AlwaysRefusal.name)
    }
    assert folder.sweep("out").run["answers_computed"] == 0
    assert (folder.path / "out" / "tiny.json").read_bytes() == rules
