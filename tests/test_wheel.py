"""The built wheel in an empty environment: runs a bundle, and neither torch nor transformers gets in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
from profiles import made_up_profile

from jetson_runtime.bundle import open_bundle
from jetson_runtime.files import write_json

ROOT = Path(__file__).resolve().parent.parent


def call(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpreters() -> dict[str, Path]:
    """The other Pythons of 3.10 to 3.13 on this machine, from the path and from pyenv."""
    found = {}
    for minor in range(10, 14):
        places = [shutil.which(f"python3.{minor}")]
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        places += [str(path) for path in pyenv.glob(f"versions/3.{minor}.*/bin/python")]
        for place in filter(None, places):
            if subprocess.run([place, "-c", "import venv"], capture_output=True, check=False).returncode == 0:
                found[f"3.{minor}"] = Path(place)
    return {version: path for version, path in found.items() if version != f"3.{sys.version_info.minor}"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as it is published."""
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    return next(folder.glob("*.whl"))


ASKED = ("--allow-unadmitted", "--prompt", "hello there", "--max-tokens", 4)


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a fresh environment that holds the wheel with its extra `cpu`."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
    call(folder / "bin/python", "-m", "pip", "install", "--quiet", f"{wheel}[cpu]")
    return folder / "bin"


def test_runs_a_bundle_without_torch(environment: Path, tiny_bundle: Callable[[str, str], Path]) -> None:
    bundle = tiny_bundle("clip-llama", "fp32")
    answer = json.loads(call(environment / "jetson-runtime", "ask", bundle, *ASKED, "--json"))
    assert 1 <= len(answer["tokens"]) <= 4
    listed = json.loads(call(environment / "python", "-m", "pip", "list", "--format", "json"))
    names = {package["name"].lower() for package in listed}
    assert not names & {"torch", "transformers", "onnx", "safetensors", "accelerate"}


def test_every_command_explains_itself(environment: Path) -> None:
    for command in ("engine-build", "engine-calibrate", "refusal-check", "jetson-runtime", "realign"):
        assert "exit codes" in call(environment / command, "--help")


def test_a_missing_extra_is_named_with_its_pip_line(environment: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [environment / "realign", "assemble", tmp_path / "out"], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 7
    assert "pip install 'holdfast[realign]'" in done.stderr


OTHERS = interpreters()


@pytest.mark.parametrize("version", OTHERS)
def test_the_base_install_answers_in_virtual_time_on_every_python(
    version: str, wheel: Path, tiny_bundle: Callable[[str, str], Path], tmp_path: Path
) -> None:
    bundle = open_bundle(tiny_bundle("clip-llama", "fp32"))
    write_json(tmp_path / "profile.json", made_up_profile(bundle).to_dict())
    call(OTHERS[version], "-m", "venv", tmp_path / "env")
    call(tmp_path / "env/bin/python", "-m", "pip", "install", "--quiet", wheel)
    ask = (tmp_path / "env/bin/jetson-runtime", "ask", bundle.path, *ASKED)
    answer = json.loads(
        call(*ask, "--backend", "simulated", "--profile", tmp_path / "profile.json", "--budget-ms", 9, "--json")
    )
    assert answer["depth"]["name"] == "d1"
