"""What can be known about the images without a Docker engine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from engine_builder.targets import load_target, target_names

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("*.Dockerfile"))
# What may stand before the first FROM, and what a stage may use; a word that is none of these is a slip of the pen.
INSTRUCTIONS = {"ARG", "FROM", "RUN", "COPY", "ENV", "LABEL", "USER", "WORKDIR", "ENTRYPOINT", "CMD"}
HOST = re.compile(
    r"https?://|--(?:extra-)?index-url|(?:^|[\s=@\"'])[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:com|io|org|net|dev|ai)(?=[/:\s]|$)"
)


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, the rest) with continued lines joined and comments left out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    logical = re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()
    pairs = [line.strip().split(None, 1) for line in logical if line.strip()]
    return [(word.upper(), rest) for word, rest in pairs]


def values(path: Path, name: str) -> list[str]:
    return [rest for word, rest in instructions(path) if word == name]


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context that docker/stage.sh makes."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package, reason="the group 'dev' is not installed")
    folder = tmp_path_factory.mktemp("context")
    for _ in range(2):  # a second run replaces the wheel of the first
        subprocess.run([DOCKER / "stage.sh", folder], check=True, env={**os.environ, "PYTHON": sys.executable})
    return folder


def test_both_images_are_there() -> None:
    assert [path.name for path in DOCKERFILES] == ["builder.Dockerfile", "runtime.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_instruction_exists(path: Path) -> None:
    assert {word for word, _ in instructions(path)} <= INSTRUCTIONS


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_base_image_is_an_argument(path: Path) -> None:
    assert instructions(path)[0] == ("ARG", "BASE_IMAGE=ubuntu:24.04")
    assert {rest.split()[0] for rest in values(path, "FROM")} == {"${BASE_IMAGE}"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_every_copied_file_is_staged(path: Path, context: Path) -> None:
    stages = {rest.split()[2] for rest in values(path, "FROM") if len(rest.split()) == 3}
    for rest in values(path, "COPY"):
        words = shlex.split(rest)
        source = next((word.removeprefix("--from=") for word in words if word.startswith("--from=")), None)
        if source is not None:
            assert source in stages
            continue
        for name in words[:-1]:
            assert (context / name).exists(), f"{name} is not in the context"
    assert (context / path.name).read_bytes() == path.read_bytes()


def test_context_holds_one_wheel_of_this_product(context: Path) -> None:
    (wheel,) = (context / "wheels").glob("*.whl")
    assert wheel.name.startswith("holdfast-") and wheel.name.endswith("-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"jetson_runtime/cli.py", "engine_builder/targets/orin-agx.yaml"} <= set(names)


def test_runtime_has_no_training_packages() -> None:
    text = " ".join(rest for word, rest in instructions(DOCKER / "runtime.Dockerfile") if word in ("RUN", "ARG", "ENV"))
    for package in ("torch", "transformers", "realign", "onnx ", "[build", "modelopt"):
        assert package not in text
    assert 'EXTRAS=""' in values(DOCKER / "runtime.Dockerfile", "ARG")


@pytest.mark.parametrize("path", [*DOCKERFILES, DOCKER / "bases.yaml", DOCKER / "stage.sh"], ids=lambda path: path.name)
def test_no_registry_or_index_host_is_baked_in(path: Path) -> None:
    # Label keys look like host names and are none.
    text = path.read_text(encoding="utf-8").replace("org.opencontainers.image.", "")
    assert not HOST.search(text), HOST.search(text)


def test_the_host_pattern_finds_hosts() -> None:
    for line in ("FROM nvcr.io/nvidia/cuda", "pip install -i https://x/y", "--extra-index-url=x", "ENV A=pypi.org"):
        assert HOST.search(line)
    assert not HOST.search("wheels/holdfast-0.1.0-py3-none-any.whl stage.sh builder.Dockerfile")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_container_is_not_root_and_starts_a_command_of_the_wheel(path: Path) -> None:
    pairs = instructions(path)
    users = values(path, "USER")
    assert users == ["holdfast"] and any("useradd --uid 10001" in rest for rest in values(path, "RUN"))
    assert [word for word, _ in pairs].index("USER") > max(n for n, (word, _) in enumerate(pairs) if word == "RUN")
    (entry,) = (yaml.safe_load(rest) for rest in values(path, "ENTRYPOINT"))
    scripts = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(rf"^{entry[0]} = ", scripts, re.MULTILINE)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_labels(path: Path) -> None:
    labels = " ".join(values(path, "LABEL"))
    for key in ("title", "description", "licenses", "version"):
        assert f"org.opencontainers.image.{key}=" in labels


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_shell_commands_are_well_formed(path: Path) -> None:
    for command in values(path, "RUN"):
        subprocess.run(["sh", "-n", "-c", command], check=True)
        assert "nvidia-smi" not in command and "--security=insecure" not in command  # no GPU while the image is built


def test_stage_script_is_well_formed_and_explains_itself(tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    subprocess.run([bash, "-n", DOCKER / "stage.sh"], check=True)
    done = subprocess.run([bash, DOCKER / "stage.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage: docker/stage.sh CONTEXT" in done.stderr


def test_bases_agree_with_the_targets() -> None:
    bases = yaml.safe_load((DOCKER / "bases.yaml").read_text(encoding="utf-8"))
    known = {name: version for target in target_names() for name, version in load_target(target).jetpacks.items()}
    assert {f"jetpack-{name}": version for name, version in known.items()} == {
        name: base["tensorrt"] for name, base in bases.items()
    }
    for base in bases.values():
        assert base["base_image"] in ("ubuntu:22.04", "ubuntu:24.04")
        assert tuple(map(int, base["python"].split("."))) >= (3, 10)  # pyproject's requires-python
    assert bases["jetpack-7.2"]["base_image"] == "ubuntu:24.04"
