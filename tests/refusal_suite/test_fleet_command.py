"""`refusal-check sweep`: what it prints, and what it refuses before it begins."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sweeping import PROMPTS, SweepFolder, make_folder

from jetson_runtime.files import read_json
from refusal_suite.cli import main

pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Callable[[str, str], Path]) -> SweepFolder:
    return make_folder(tmp_path, tiny_bundle("clip-llama", "fp32"))


def test_the_command_prints_tables_or_facts(folder: SweepFolder, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["sweep", str(folder.write(depths=["d1"])), "--out", str(folder.path / "out")]

    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "tiny\ndepth" in said
    assert f"{PROMPTS} answers, {PROMPTS} of them computed now" in said

    assert main([*arguments, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["reports"] == {"tiny": str(folder.path / "out" / "tiny.json")}
    assert (facts["answers"], facts["answers_computed"], facts["workers_lost"]) == (PROMPTS, 0, 0)
    assert read_json(folder.path / "out" / "run.json") == {
        name: value for name, value in facts.items() if name != "reports"
    }


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--workers", "2"], 2, "--workers says how many"),
        (["--ray", "local", "--workers", "0"], 2, "--workers can't be used"),
        (["--ray", "nonsense"], 2, "not of the form HOST:PORT"),
        (["--ray", "127.0.0.1:1"], 2, "Connection refused"),
        (["--ray", "ray://127.0.0.1:1"], 2, "not of the form HOST:PORT"),
        (["--judge", "nobody"], 2, "unknown judge 'nobody'"),
        (["--judge", "model:nothing"], 3, "nothing"),
        (["--ray", "127.0.0.1:99999"], 2, "not of the form HOST:PORT"),
    ],
)
def test_wrong_options(folder: SweepFolder, capsys: Any, arguments: list[str], code: int, message: str) -> None:
    assert main(["sweep", str(folder.write()), "--out", str(folder.path / "out"), *arguments]) == code
    assert message in capsys.readouterr().err
    assert not (folder.path / "out").exists()


def test_without_ray_the_extra_is_named(folder: SweepFolder, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("USAGE_STATS_ENABLED", "ENABLE_WINDOWS_OR_OSX_CLUSTER", "AUTH_MODE", "AUTH_TOKEN"):
        monkeypatch.setenv(f"RAY_{name}", "")

    assert main(["sweep", str(folder.write()), "--out", str(folder.path / "out"), "--ray", "local"]) == 7
    assert "pip install 'holdfast[fleet]'" in capsys.readouterr().err
