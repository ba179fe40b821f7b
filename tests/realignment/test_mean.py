"""`realign mean`: what comes out lies between the runs, and runs from different starts are refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from safetensors.torch import load_file  # noqa: E402
from test_lppo_command import words  # noqa: E402
from test_lppo_rollout import one_thread  # noqa: E402

from realignment.assemble import load_adapter  # noqa: E402
from realignment.cli import main  # noqa: E402
from realignment.lppo.plan import PpoPlan  # noqa: E402
from realignment.lppo.training import VALUE_HEAD  # noqa: E402
from realignment.supervised import ADAPTER, CHECKPOINT, RECIPE, RECORD, read_stage  # noqa: E402

__all__ = ["one_thread", "words"]


@pytest.fixture(scope="module")
def checkpoint(tiny_llava: Callable[[str], Path]) -> Path:
    return tiny_llava("clip-llama")


@pytest.fixture(scope="module")
def runs(words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs from one start, with opposite shares."""
    folders = (tmp_path_factory.mktemp("runs") / "one", tmp_path_factory.mktemp("runs") / "two")
    for folder, shares in zip(folders, ([0.25, 0.75], [0.75, 0.25]), strict=True):
        assert main(words(folder, harmful_shares=shares, steps=2)) == 0
    return folders


def test_the_mean_lies_between_the_runs(checkpoint: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mean"
    assert main(["mean", str(checkpoint), *map(str, runs), "--out", str(out)]) == 0
    for file in (ADAPTER, VALUE_HEAD):
        one, two, between = (load_file(folder / file) for folder in (*runs, out))
        assert one.keys() == two.keys() == between.keys()
        assert any(not torch.equal(one[name], two[name]) for name in one)
        for name, tensor in between.items():
            assert torch.allclose(tensor.float(), (one[name].float() + two[name].float()) / 2, atol=1e-4)
    one, two, start = (
        load_file(folder / "model.safetensors") for folder in (runs[0] / CHECKPOINT, runs[1] / CHECKPOINT, checkpoint)
    )
    merged = load_file(out / CHECKPOINT / "model.safetensors")
    moved = [name for name in start if not torch.equal(start[name], merged[name])]
    assert moved
    for name in moved:
        # Of the factors, not of the products: close to the mean of the weights, because both began at the same factors.
        middle = (one[name].float() + two[name].float()) / 2
        assert (merged[name].float() - middle).norm() < (one[name].float() - two[name].float()).norm() / 2


def test_a_run_that_is_named_twice_counts_twice(checkpoint: Path, runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "mean"
    assert main(["mean", str(checkpoint), *map(str, (runs[0], *runs)), "--out", str(out)]) == 0
    one, two, between = (load_file(folder / ADAPTER) for folder in (*runs, out))
    for name, tensor in between.items():
        assert torch.allclose(tensor.float(), (2 * one[name].float() + two[name].float()) / 3, atol=1e-4)


def test_the_record_holds_the_runs_records(
    checkpoint: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mean"
    assert main(["mean", str(checkpoint), *map(str, runs), "--out", str(out), "--json"]) == 0
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == record
    assert record["runs"] == [json.loads((run / RECORD).read_text(encoding="utf-8")) for run in runs]
    assert record["steps"] == 4
    # Each once, though both runs read them.
    assert record["sources"] == record["runs"][0]["sources"] == record["runs"][1]["sources"]
    assert record["sources"]


def other(run: Path, folder: Path, **changes: object) -> Path:
    """A copy of a run whose record says something else."""
    shutil.copytree(run, folder)
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    for name, value in changes.items():
        record = {**record, name: {**record[name], **value} if isinstance(value, dict) else value}
    (folder / RECORD).write_text(json.dumps(record), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"complete": False}, ("no finished run of L-PPO", "stage ppo, not complete", "--resume")),
        ({"stage": "align"}, ("no finished run of L-PPO", "stage align, complete")),
        ({"base": {"model.safetensors": "00"}}, ("started from another checkpoint", "found: 00")),
        ({"recipe": {"seed": 4}}, ("began elsewhere", "found: seed 4, rank 2", "seed 3, rank 2, as in")),
        ({"recipe": {"rank": 4}}, ("began elsewhere", "found: seed 3, rank 4")),
        ({"adapter": {"sha256": "00"}}, ("not the recorded one", "expected: 00")),
    ],
)
def test_runs_that_have_no_mean(
    changes: dict[str, object],
    expected: tuple[str, ...],
    checkpoint: Path,
    runs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd, out = other(runs[1], tmp_path / "odd", **changes), tmp_path / "mean"
    assert main(["mean", str(checkpoint), str(runs[0]), str(odd), "--out", str(out)]) == 3
    said = capsys.readouterr().err
    assert all(word in said for word in expected), said
    assert not out.exists()


def test_one_run_or_no_folder_is_no_mean(
    checkpoint: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "mean"))
    assert main(["mean", str(checkpoint), str(runs[0]), *out]) == 2
    assert "found: 1" in capsys.readouterr().err
    assert main(["mean", str(checkpoint), str(runs[0]), str(tmp_path / "nothing"), *out]) == 3
    assert "found: no record" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"not tensors"])
def test_a_run_without_its_value_head_has_no_mean(
    content: bytes | None,
    checkpoint: Path,
    runs: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd, out = other(runs[1], tmp_path / "odd"), tmp_path / "mean"
    (odd / VALUE_HEAD).unlink()
    if content is not None:
        (odd / VALUE_HEAD).write_bytes(content)
    assert main(["mean", str(checkpoint), str(runs[0]), str(odd), "--out", str(out)]) == 3
    assert "is no value head" in capsys.readouterr().err
    assert not out.exists()


def test_a_folder_without_weights_is_no_start(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mean", str(tmp_path), *map(str, runs), "--out", str(tmp_path / "mean")]) == 3
    assert "where there are none" in capsys.readouterr().err


def test_what_exists_is_replaced_only_when_told_to(
    checkpoint: Path, runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["mean", str(checkpoint), *map(str, runs), "--out", str(tmp_path)]
    (tmp_path / "kept").touch()
    assert main(line) != 0
    assert "already exists" in capsys.readouterr().err
    assert (tmp_path / "kept").exists()
    assert main([*line, "--force"]) == 0
    assert not (tmp_path / "kept").exists()


def test_the_reference_is_the_mean_of_its_recipes_runs() -> None:
    """They differ in shares and length; the record names them, and the last two are those recipes' own runs."""
    names = ("reference.yaml", "reference-b.yaml", "reference-c.yaml")
    recipes = [read_stage(RECIPE.with_name(name), "ppo", PpoPlan) for name in names]
    own = {name: getattr(recipes[0].plan, name) for name in ("steps", "harmful_shares", "mean_steps")}
    for recipe in recipes:
        assert recipe.common == recipes[0].common
        assert dataclasses.replace(recipe.plan, **own) == recipes[0].plan
    _, _, record = load_adapter("ppo")
    runs = {run["command"].split()[4]: run for run in record["runs"]}
    assert tuple(runs) == names
    assert [run["steps"] for run in runs.values()] == [recipe.plan.steps for recipe in recipes]
    assert [runs[name]["recipe"]["sha256"] for name in names[1:]] == [recipe.sha256 for recipe in recipes[1:]]
