"""`realign ppo` from end to end: one process or two, killed and resumed, and input that does not fit."""

from __future__ import annotations

import copy
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")
pytest.importorskip("accelerate")

from safetensors.torch import load_file, save_file  # noqa: E402
from test_lppo_rollout import one_thread  # noqa: E402

from realignment.cli import main  # noqa: E402
from realignment.lppo.training import VALUE_HEAD  # noqa: E402
from realignment.supervised import ADAPTER, CHECKPOINT  # noqa: E402
from realignment.towers import Towers  # noqa: E402
from realignment.training import CURVE  # noqa: E402

__all__ = ["one_thread"]

STEPS = 4
RECIPE: dict[str, Any] = {
    "seed": 3,
    "max_minutes": 10,
    "save_minutes": 0,
    "asked_pictures": 3,
    "drawn_pictures": 2,
    "sources": [],
    "ppo": {
        "steps": STEPS,
        "rank": 2,
        "groups": 4,
        "groups_per_step": 2,
        "prompts": 4,
        "epochs": 2,
        "vision_exits": [1, 3],
        "decoder_exits": [2, 4],
        "text_share": 0.25,
        "harmful_shares": [0.5, 0.5],
        "fresh_share": 0.25,
        "visual_share": 0.25,
        "visual_exits": [3],
        "anchors": 1,
        "anchor_weight": 0.5,
        "max_new_tokens": 6,
        "temperature": 1.0,
        "clip": 0.2,
        "gamma": 1.0,
        "gae_decay": 0.95,
        "kl_weight": 0.05,
        "value_weight": 0.1,
        "value_rate": 2.0,
        "learning_rate": 0.01,
        "warmup_steps": 1,
        "mean_steps": 2,
        "floor": 0.4,
        "memory": 0.7,
        "bfloat16": True,
    },
}
ONE = (sys.executable, "-m", "realignment.cli")
# `accelerate launch --cpu` starts one process however many it is asked for; torchrun starts them all.
TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "realignment.cli")
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def checkpoint(tiny_llava: Callable[[str], Path]) -> Path:
    return tiny_llava("clip-llama")


@pytest.fixture(scope="module")
def words(
    checkpoint: Path, reference_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., list[str]]:
    """`words(out, ...)` is the command line after the program: `recipe` changes the recipe's entries."""
    recipes = tmp_path_factory.mktemp("recipes")

    def make(out: Path, *options: str, source: Path = checkpoint, **recipe: Any) -> list[str]:
        changed = copy.deepcopy(RECIPE)
        for name, value in recipe.items():
            (changed["ppo"] if name in changed["ppo"] else changed)[name] = value
        file = recipes / f"{abs(hash(str(recipe)))}.yaml"
        file.write_text(yaml.safe_dump(changed), encoding="utf-8")
        return [
            *("ppo", str(source), "--out", str(out), "--recipe", str(file), "--cache", str(reference_cache)),
            *options,
        ]

    return make


def done(launcher: tuple[str, ...], line: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*launcher, *line], capture_output=True, text=True, check=False, env=QUIET, timeout=900)


@pytest.fixture(scope="module")
def unbroken(words: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ppo") / "out"
    ended = done(ONE, words(out, "--json"))
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((out / "record.json").read_text(encoding="utf-8"))
    return out


def rows(out: Path) -> list[dict[str, str]]:
    with (out / CURVE).open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if name != "minutes"} for row in csv.DictReader(file)]


def numbers(out: Path) -> list[list[float]]:
    return [[float(value or -1) for name, value in row.items() if name != "stage"] for row in rows(out)]


def test_a_run_leaves_adapter_head_checkpoint_curve_and_record(unbroken: Path, checkpoint: Path) -> None:
    record = json.loads((unbroken / "record.json").read_text(encoding="utf-8"))
    assert (record["steps"], record["complete"], record["processes"]) == (STEPS, True, 1)
    assert set(record["failures"]["vision"]) <= {"1", "3"}
    assert [row["step"] for row in rows(unbroken)] == ["1", "2", "3", "4"]
    assert load_file(unbroken / VALUE_HEAD)["weight"].shape == (1, 64)
    adapter = load_file(unbroken / ADAPTER)
    assert all(tensor.abs().sum() > 0 for tensor in adapter.values())
    before, after = (Towers(folder).model.state_dict() for folder in (checkpoint, unbroken / CHECKPOINT))
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert len(changed) == len(adapter) // 2
    assert all("language_model.layers" in name for name in changed)


def test_two_processes_come_to_the_same_result(unbroken: Path, words: Callable[..., list[str]], tmp_path: Path) -> None:
    out = tmp_path / "two"
    ended = done(TWO, words(out))
    assert ended.returncode == 0, ended.stderr
    assert json.loads((out / "record.json").read_text(encoding="utf-8"))["processes"] == 2
    for name in (ADAPTER, VALUE_HEAD):
        one, two = load_file(unbroken / name), load_file(out / name)
        assert set(one) == set(two)
        for key, tensor in one.items():
            assert torch.allclose(two[key].float(), tensor.float(), atol=1e-3), key
    for one_row, two_row in zip(numbers(unbroken), numbers(out), strict=True):
        assert two_row == pytest.approx(one_row, abs=1e-3)


def test_groups_that_two_processes_can_t_share(words: Callable[..., list[str]], tmp_path: Path) -> None:
    ended = done(TWO, words(tmp_path / "out", groups=3, groups_per_step=3))
    assert ended.returncode != 0
    assert "found: 3 groups, 3 per step, 2 processes" in ended.stderr


def test_a_killed_process_is_resumed_as_if_nothing_had_happened(
    unbroken: Path, words: Callable[..., list[str]], tmp_path: Path
) -> None:
    for attempt in range(5):
        out = tmp_path / str(attempt)
        process = subprocess.Popen([*ONE, *words(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=QUIET)
        while process.poll() is None and not (out / CURVE).exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL and not (out / ADAPTER).exists():
            break
    assert process.returncode == -signal.SIGKILL, "the training was never caught under way"
    assert len(rows(out)) < STEPS
    ended = done(ONE, words(out, "--resume"))
    assert ended.returncode == 0, ended.stderr
    assert rows(out) == rows(unbroken)
    for name in (ADAPTER, VALUE_HEAD, f"{CHECKPOINT}/model.safetensors"):
        resumed, whole = load_file(out / name), load_file(unbroken / name)
        assert all(torch.equal(resumed[key], tensor) for key, tensor in whole.items())


def without_projector(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "projector" not in name}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def told(line: list[str], code: int, capsys: pytest.CaptureFixture[str], *expected: str) -> None:
    assert main(line) == code
    said = capsys.readouterr().err
    for word in (*expected, "found:", "expected:"):
        assert word in said


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vision_exits": [1, 9]}, ("vision exits don't fit", "found: 9", "exits from 1 to 4")),
        ({"decoder_exits": [5], "harmful_shares": [0.5]}, ("decoder exits don't fit", "found: 5", "exits from 1 to 4")),
        ({"groups": 5}, ("can't be shared evenly", "5 groups, 2 per step, 1 processes")),
        ({"prompts": 0}, ("prompts is wrong",)),
        ({"mean_steps": 5}, ("mean_steps do not fit", "mean_steps 5, steps 4")),
        ({"harmful_shares": [0.5]}, ("harmful_shares do not fit", "1 shares, 2 decoder exits")),
        ({"harmful_shares": [0.5, 1.5]}, ("harmful_shares is wrong", "a list of shares, 0 to 1")),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_a_recipe_that_does_not_fit(
    words: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    expected: tuple[str, ...],
) -> None:
    told(words(tmp_path / "out", **changes), 2, capsys, *expected)
    assert not (tmp_path / "out" / CURVE).exists()


def test_a_checkpoint_without_projector(
    words: Callable[..., list[str]], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = without_projector(tmp_path / "bare", checkpoint)
    told(words(tmp_path / "out", source=bare), 3, capsys, "bare lacks the projector", "tensors missing")


def test_data_with_a_missing_column(
    words: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.csv").write_text("colour,size\nred,3\n", encoding="utf-8")
    line = words(tmp_path / "out", "--data", str(tmp_path), sources=[{"file": "more.csv", "kind": "benign"}])
    told(line, 2, capsys, "more.csv", "colour")


def test_a_place_that_holds_a_training_is_not_written_over(
    unbroken: Path,
    words: Callable[..., list[str]],
    tiny_llava: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = (unbroken / ADAPTER).stat().st_mtime_ns
    assert main(words(unbroken)) == 6
    assert "holds a training" in capsys.readouterr().err
    told(words(unbroken, "--resume", seed=4), 3, capsys, "ppo.state.safetensors belongs to another recipe")
    other = words(unbroken, "--resume", source=tiny_llava("dinov2-llama"))
    told(other, 3, capsys, "ppo.state.safetensors belongs to another recipe, checkpoint or reward")
    assert (unbroken / ADAPTER).stat().st_mtime_ns == before
