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
from jetson_runtime.errors import HoldfastError
from realignment.cli import main as realign

__all__ = ["EXITS", "LADDERS", "bundle", "checkpoint", "picture"]

_FOLDER = ROOT / "build" / "benchmarks"
EXITS = ((4, 12), (8, 20), (12, 30))  # the reference ladder: (vision, decoder)
LADDERS = {1: EXITS[2:], 3: EXITS, 6: ((2, 5), (4, 10), (6, 15), (8, 20), (10, 25), (12, 30))}


def checkpoint() -> Path:
    """The reference checkpoint: `HOLDFAST_REFERENCE`, or one assembled here."""
    given = os.environ.get("HOLDFAST_REFERENCE")
    path = Path(given) if given else _FOLDER / "reference"
    if not path.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            code = realign(["assemble", str(path)])
        if code:
            raise HoldfastError("the reference checkpoint could not be assembled", remedy="see the message above")
    return path


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
