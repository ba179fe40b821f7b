"""`realign align` and `realign exits` from end to end, on a LLaVA-1.5-shaped checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jetson_runtime.errors import ConfigError
from jetson_runtime.files import sha256_file
from realignment.recipe import Exits, Mixture
from realignment.supervised import RECIPE, read_stage

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from realignment import supervised  # noqa: E402
from realignment.cli import main  # noqa: E402
from realignment.requests import Pool, read_pool  # noqa: E402
from realignment.towers import Towers  # noqa: E402

SMALL = {"steps": 3, "rank": 2, "rows": 2, "prompts": 2, "image_tokens": [2, 4], "max_new_tokens": 2}


def recipe(folder: Path, **changes: Any) -> Path:
    """The shipped recipe at a small size, with other entries."""
    value = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    value |= {"sources": [], "asked_pictures": 4, "drawn_pictures": 2}
    value["align"] |= {**SMALL, "measure_every": 2}
    value["exits"] |= {**SMALL, "measure_every": 2, "exits": [1, 3], "exits_per_step": 1}
    for name, entry in changes.items():
        value[name] = {**value[name], **entry} if isinstance(entry, dict) else entry
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(value), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def few() -> Pool:
    """A part of our own requests, so that a small model answers them soon."""
    pool = read_pool([], None)
    return Pool(pool.train[:30], pool.held_out[:12], pool.sources)


@pytest.fixture
def run(
    tmp_path: Path, few: Pool, tiny_llava: Callable[[str], Path], reference_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`run("align", tmp_path / "out")` is the exit code of that command on the tiny checkpoint."""
    monkeypatch.setattr(supervised, "read_pool", lambda sources, folder, seed: few)

    def call(stage: str, out: Path, *options: str, checkpoint: Path | None = None) -> int:
        command = [stage, str(checkpoint or tiny_llava("clip-llama")), "--recipe", str(tmp_path / "small.yaml")]
        return main([*command, "--out", str(out), "--cache", str(reference_cache), *options])

    return call


@pytest.mark.parametrize("stage", ["align", "exits"])
def test_a_stage_gives_a_checkpoint_and_says_how(
    stage: str,
    run: Callable[..., int],
    tmp_path: Path,
    tiny_llava: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe(tmp_path)
    out = tmp_path / "out"
    assert run(stage, out, "--json") == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((out / "record.json").read_text())
    assert (record["stage"], record["steps"], record["complete"]) == (stage, 3, True)
    assert record["adapter"]["sha256"] == sha256_file(out / "adapter.safetensors")
    base = tiny_llava("clip-llama")
    assert record["base"] == {"model.safetensors": sha256_file(base / "model.safetensors")}
    assert "--recipe small.yaml" in record["command"] and str(tmp_path) not in json.dumps(record)
    assert record["recipe"]["sha256"] == read_stage(tmp_path / "small.yaml", stage, supervised.PLANS[stage]).sha256
    names = {"align": ["text", "picture"], "exits": ["exit 1", "exit 3", "full depth"]}[stage]
    assert record["last_held_out"].pop("step") == 3
    assert sorted(record["last_held_out"]) == sorted(names)
    assert all(0 < value < 20 for value in record["last_held_out"].values())
    assert record["train_requests"] == 30 and record["held_out_requests"] == 12
    before, after = Towers(base).model.state_dict(), Towers(out / "checkpoint").model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all("language_model.layers" in name and "_proj.weight" in name for name in changed)


def test_a_stopped_training_is_prolonged(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path)
    assert run("align", tmp_path / "unbroken") == 0
    recipe(tmp_path, max_minutes=0)
    assert run("align", tmp_path / "out") == 0
    assert "raise its max_minutes and add --resume" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "record.json").read_text())["complete"] is False
    recipe(tmp_path, max_minutes=60, save_minutes=1)
    assert run("align", tmp_path / "out", "--resume") == 0
    assert "stopped by" not in capsys.readouterr().out
    files = [tmp_path / name / "adapter.safetensors" for name in ("unbroken", "out")]
    assert sha256_file(files[0]) == sha256_file(files[1])


def test_a_training_that_is_there_is_not_written_over(
    run: Callable[..., int], tmp_path: Path, tiny_llava: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path, align={"steps": 1})
    assert run("align", tmp_path / "out") == 0
    adapter = (tmp_path / "out" / "adapter.safetensors").read_bytes()
    assert run("align", tmp_path / "out") == 6
    assert "add --resume" in capsys.readouterr().err
    recipe(tmp_path, align={"steps": 2})
    assert run("align", tmp_path / "out", "--resume") == 3
    assert "a training of another recipe" in capsys.readouterr().err
    recipe(tmp_path, align={"steps": 1})
    assert run("align", tmp_path / "out", "--resume", checkpoint=tiny_llava("dinov2-llama")) == 3
    assert "a training of another checkpoint" in capsys.readouterr().err
    assert (tmp_path / "out" / "adapter.safetensors").read_bytes() == adapter


def test_answers_of_another_checkpoint_are_not_taken_over(
    run: Callable[..., int], tmp_path: Path, tiny_llava: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ended before its first step leaves answers, and no state."""
    recipe(tmp_path, exits={"steps": 1})
    told = []
    monkeypatch.setattr(
        supervised, "own_answers", lambda towers, ask, max_new_tokens: told.append((towers.folder, len(ask))) or {}
    )
    for kind in ("clip-llama", "clip-llama", "dinov2-llama"):
        assert run("exits", tmp_path / "out", checkpoint=tiny_llava(kind)) == 0
        for name in ("exits.state.safetensors", "curve.csv"):
            (tmp_path / "out" / name).unlink()
    assert told == [(tiny_llava("clip-llama"), 42), (tiny_llava("dinov2-llama"), 42)]


def test_a_full_disk_is_told(
    run: Callable[..., int], tmp_path: Path, full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(tmp_path, align={"steps": 1})
    with full_disk():
        assert run("align", tmp_path / "out") == 6
    assert "align.state.safetensors can't be written" in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoint").exists()


def test_an_unsuitable_checkpoint_is_told(
    run: Callable[..., int], tmp_path: Path, tiny_llava: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file, save_file

    recipe(tmp_path)
    broken = shutil.copytree(tiny_llava("clip-llama"), tmp_path / "broken")
    kept = {n: v for n, v in load_file(broken / "model.safetensors").items() if "projector" not in n}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    assert run("align", tmp_path / "out", checkpoint=broken) == 3
    assert "lacks the projector" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("exits", {"exits": {"exits": [1, 9]}}, "these decoder exits don't fit"),
        ("exits", {"exits": {"exits": [1, 4]}}, "exits before 4"),
        ("exits", {"exits": {"exits_per_step": 3}}, "these exits can't be trained"),
        ("align", {"align": {"rows": 7}}, "too few pictures"),
    ],
)
def test_a_recipe_that_does_not_fit_is_told_before_anything_is_computed(
    stage: str,
    changes: dict[str, Any],
    message: str,
    run: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe(tmp_path, **changes)
    assert run(stage, tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": {"file": "a.csv"}}, "sources is wrong"),
        ({"sources": ["a.csv"]}, "sources is wrong"),
        ({"sources": [{"kind": "harmful"}]}, "sources is wrong"),
        ({"sources": [{"file": "a.csv", "colour": "red"}]}, "sources is wrong"),
        ({"sources": [{"file": "a.csv", "limit": 0}]}, "sources is wrong"),
        ({"sources": [{"file": "a.csv", "limit": "many"}]}, "sources is wrong"),
        ({"typo": 1}, "missing or unknown entries"),
        ({"align": {"image_share": 1.5}}, "image_share is wrong"),
        ({"align": {"max_new_tokens": 0}}, "max_new_tokens is wrong"),
        ({"align": {"learning_rate": float("inf")}}, "learning_rate is wrong"),
        ({"align": {"image_tokens": [0]}}, "image_tokens is wrong"),
        ({"align": {"typo": 1}}, "missing or unknown entries"),
    ],
)
def test_a_wrong_recipe_is_told(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    value = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    for name, entry in changes.items():
        value[name] = {**value[name], **entry} if name == "align" else entry
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        read_stage(tmp_path / "recipe.yaml", "align", Mixture)


def test_a_recipe_without_the_stage_is_told(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="has no part 'exits'"):
        read_stage(tmp_path / "recipe.yaml", "exits", Exits)


def test_only_what_changes_the_result_makes_another_recipe(tmp_path: Path) -> None:
    def digest(**changes: Any) -> str:
        return read_stage(recipe(tmp_path, **changes), "align", Mixture).sha256

    same = digest()
    assert digest(max_minutes=999, save_minutes=9, exits={"steps": 9}) == same
    others = [digest(seed=1), digest(asked_pictures=5), digest(align={"steps": 4}), digest(sources=[{"file": "a"}])]
    assert len({same, *others}) == 5
