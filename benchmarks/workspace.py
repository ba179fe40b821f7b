"""What the benchmarks measure on: the reference checkpoint and bundles of it, made once under `build/benchmarks`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.claims import ROOT
from engine_builder.config import BuildConfig
from engine_builder.export import export
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.errors import ConfigError, HoldfastError
from jetson_runtime.files import read_json, sha256_file
from jetson_runtime.ladder import Ladder
from realignment.assemble import DATA, STAGES
from realignment.cli import main as realign
from realignment.packages import default_cache

__all__ = ["EXITS", "LADDERS", "bundle", "checkpoint", "demo_ladder", "measured_root", "picture", "sources", "stage"]

_FOLDER = ROOT / "build" / "benchmarks"
EXITS = ((4, 12), (8, 20), (12, 30))  # the reference ladder: (vision, decoder)
LADDERS = {1: EXITS[2:], 3: EXITS, 6: ((2, 5), (4, 10), (6, 15), (8, 20), (10, 25), (12, 30))}


def checkpoint() -> Path:
    """The reference checkpoint: `HOLDFAST_REFERENCE`, or the realigned one, assembled here."""
    given = os.environ.get("HOLDFAST_REFERENCE")
    return Path(given) if given else stage("realigned")


def stage(name: str) -> Path:
    """The reference as it is after one of `realign assemble`'s stages; assembled again when what it is made of changed.

    Raises:
        HoldfastError: it can't be assembled.
    """
    path = _FOLDER / "stages" / name
    if not path.exists() or _parts(path) != _shipped(name):
        quietly("assemble", path, "--stage", name, "--force")
    return path


def quietly(*words: object) -> None:
    """Run `realign` with these words, without what it prints to standard output.

    Raises:
        HoldfastError: it failed.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        code = realign([str(word) for word in words])
    if code:
        raise HoldfastError(f"`realign {words[0]}` failed", found=f"exit code {code}", remedy="see the message above")


def _parts(path: Path) -> dict[str, str]:
    """The digests of the trained parts in an assembled checkpoint."""
    facts = read_json(path / "provenance.json")
    adapters = {name: part["adapter"]["sha256"] for name, part in facts["adapters"].items()}
    return {"projector": facts["parts"]["projector"]["sha256"], **adapters}


def _shipped(name: str) -> dict[str, str]:
    """The digests of those parts in the source tree."""
    order = list(STAGES)
    adapters = [adapter for part in order[: order.index(name) + 1] if (adapter := STAGES[part])]
    files = {part: DATA / f"{part}.safetensors" for part in ("projector", *adapters)}
    return {part: sha256_file(file) for part, file in files.items() if file.is_file()}


def demo_ladder() -> Ladder:
    """The ladder that `make demo` builds."""
    return BuildConfig.read(ROOT / "demo" / "build.yaml").ladder


def measured_root() -> Path:
    """Where measurements are kept: `HOLDFAST_MEASURED`, or a folder in the cache."""
    given = os.environ.get("HOLDFAST_MEASURED")
    return Path(given).absolute() if given else default_cache().absolute() / "measured"


def sources() -> Path:
    """The folder of the recipe's training data, which `HOLDFAST_DATA` names.

    Raises:
        ConfigError: it names none.
    """
    given = os.environ.get("HOLDFAST_DATA")
    if not given or not Path(given).is_dir():
        raise ConfigError(
            "HOLDFAST_DATA does not name the folder of the training data",
            found=given or "it is not set",
            expected="a folder with the recipe's sources",
            remedy="set it; docs/realignment.md says where the files come from",
        )
    return Path(given)


def bundle(ladder: Sequence[tuple[int, int]], precision: str = "fp32", target: str = "cpu") -> Bundle:
    """A bundle of the reference with one depth per pair of exits; exported again at each call, as a user would."""
    name = "-".join(f"{vision}.{decoder}" for vision, decoder in ladder)
    out = _FOLDER / f"bundle-{precision}-{name}"
    export(checkpoint(), config(ladder, precision, target), out, replace=True)
    return open_bundle(out)


def config(ladder: Sequence[tuple[int, int]], precision: str, target: str) -> BuildConfig:
    """The build.yaml of `demo/`, with another ladder."""
    value = {
        "model": {"id": "holdfast-reference", "version": "0.1.0"},
        "precision": precision,
        "kv_capacity": 512,
        "target": target,
        "ladder": [{"name": f"d{n}", "vision": v, "decoder": d} for n, (v, d) in enumerate(ladder, 1)],
    }
    return BuildConfig.from_dict(value, Path("build.yaml"))


@contextlib.contextmanager
def scratch(bundle_path: Path) -> Iterator[Path]:
    """A bundle's directory, removed afterwards: six of them would fill a small disk."""
    import shutil

    try:
        yield bundle_path
    finally:
        shutil.rmtree(bundle_path, ignore_errors=True)


def picture() -> Path:
    """The picture that the demo asks about."""
    return ROOT / "demo" / "sign.png"
