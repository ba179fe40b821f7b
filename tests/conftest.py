"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import KINDS, build_config, save_model, save_processor

from engine_builder.config import BuildConfig
from engine_builder.export import export

DEMO = Path(__file__).resolve().parent.parent / "demo"


@pytest.fixture(scope="session")
def reference_cache() -> Path:
    """Where checked downloads lie: HOLDFAST_CACHE, or the commands' own default."""
    from realignment.packages import default_cache

    return default_cache()


@pytest.fixture(scope="session")
def reference_checkpoint(tmp_path_factory: pytest.TempPathFactory, reference_cache: Path) -> Path:
    """The reference checkpoint: the directory that HOLDFAST_REFERENCE names, or one assembled for this test run."""
    ready = os.environ.get("HOLDFAST_REFERENCE")
    if ready:
        return Path(ready)
    from realignment.assemble import assemble

    folder = tmp_path_factory.mktemp("reference") / "checkpoint"
    assemble(folder, reference_cache)
    return folder


@pytest.fixture(scope="session")
def reference_bundle(reference_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The portable bundle that `make demo` builds."""
    out = tmp_path_factory.mktemp("reference") / "bundle"
    export(reference_checkpoint, BuildConfig.read(DEMO / "build.yaml"), out)
    return out


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`tiny_llava("clip-llama")` is that checkpoint's directory: 4 layers per tower, left at vision layer 3."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            save_model(made[kind], *KINDS[kind])
            save_processor(made[kind])
        return made[kind]

    return make


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_llava: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """`tiny_bundle("clip-llama", "fp16")` is a portable bundle of that checkpoint."""
    made: dict[tuple[str, str], Path] = {}

    def make(kind: str, precision: str) -> Path:
        if (kind, precision) not in made:
            target = "cpu" if precision == "fp32" else "rtx-sm86"
            made[kind, precision] = tmp_path_factory.mktemp("bundles") / f"{kind}-{precision}"
            export(tiny_llava(kind), build_config(precision=precision, target=target), made[kind, precision])
        return made[kind, precision]

    return make
