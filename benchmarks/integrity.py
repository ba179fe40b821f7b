"""Claims about what a bundle's reader notices: every flipped byte, before an engine is loaded; and what that costs."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tqdm import tqdm

from benchmarks.claims import Measured, claim
from engine_builder.bom import bill_of_materials
from engine_builder.export import export
from engine_builder.keys import raw_public
from engine_builder.signing import sign_bundle
from jetson_runtime import load
from jetson_runtime.bundle import BOM, ENVELOPE, MANIFEST, open_bundle, seal
from jetson_runtime.errors import BundleError
from jetson_runtime.files import sha256_file
from jetson_runtime.manifest import Manifest
from jetson_runtime.trust import Trust, TrustedKey

__all__ = ["Flip", "every_byte", "flips", "undetected"]

_SAMPLED = 10_000
_TURNS = 5
_LARGE_BYTES = 1 << 30
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Flip:
    """One byte of one file, changed by XOR with `mask`."""

    path: Path
    position: int
    mask: int

    def apply(self) -> None:
        """Change the byte, or change it back."""
        with self.path.open("r+b") as file:
            file.seek(self.position)
            before = file.read(1)[0]
            file.seek(self.position)
            file.write(bytes([before ^ self.mask]))


def flips(bundle: Path, count: int, seed: int = 0) -> Iterator[Flip]:
    """`count` positions drawn from all files of a bundle, each file in turn so that small ones are not left out."""
    draw = random.Random(seed)
    files = [path for path in sorted(bundle.rglob("*")) if path.is_file() and path.stat().st_size]
    for number in range(count):
        path = files[number % len(files)]
        yield Flip(path, draw.randrange(path.stat().st_size), draw.randrange(1, 256))


def every_byte(path: Path, seed: int = 0) -> Iterator[Flip]:
    """Every position of one file."""
    draw = random.Random(seed)
    return (Flip(path, position, draw.randrange(1, 256)) for position in range(path.stat().st_size))


def undetected(bundle: Path, trust: Trust, changes: Iterable[Flip]) -> list[Flip]:
    """The changes after which the bundle is not refused as a bundle, before a backend is opened."""
    missed = []
    with patch("jetson_runtime.runtime.open_backend", side_effect=AssertionError("an engine would be loaded")):
        for change in changes:
            change.apply()
            try:
                load(bundle, trust=trust)
            except BundleError:
                pass
            except Exception:
                missed.append(change)
            finally:
                change.apply()
    return missed


@claim(
    "gate.byte-flips",
    "single flipped bytes of a small signed bundle that are not detected before an engine is loaded",
    "flips",
    "<=",
    0,
)
def byte_flips() -> Measured:
    """Every position of the manifest and of the envelope, and 10,000 drawn from all files."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = _small_bundle(Path(folder))
        trust = _signed(bundle)
        load(bundle, backend="onnxruntime", trust=trust).unload()
        whole = [flip for name in (MANIFEST, ENVELOPE) for flip in every_byte(bundle / name)]
        drawn = list(flips(bundle, _SAMPLED))
        missed = undetected(bundle, trust, tqdm([*whole, *drawn], desc="flips", unit="flip", disable=None))
        details = {
            "files": len({flip.path for flip in drawn}),
            "bundle_bytes": sum(path.stat().st_size for path in {flip.path for flip in drawn}),
            "every_position_of_manifest_and_envelope": len(whole),
            "drawn_from_all_files": len(drawn),
            "missed": [f"{flip.path.relative_to(bundle)}:{flip.position}^{flip.mask}" for flip in missed],
        }
    return Measured(len(missed), details)


@claim(
    "gate.verify-speed",
    "time to verify and open a signed bundle of 1 GB / time of sha256sum on the same files, medians",
    "ratio",
    "<=",
    1.3,
)
def verify_speed() -> Measured:
    """In turns, after a first round that fills the page cache.

    Beside it: hashing alone, because sha256sum may not use the processor's SHA instructions, and opening on one core.
    """
    with tempfile.TemporaryDirectory() as folder:
        bundle = _large_bundle(Path(folder))
        trust = _signed(bundle)
        files = [path for path in sorted(bundle.rglob("*")) if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        ways: dict[str, Callable[[], object]] = {
            "sha256sum": lambda: subprocess.run(["sha256sum", *files], check=True, stdout=subprocess.DEVNULL),
            "hashlib_in_one_thread": lambda: [sha256_file(path) for path in files],
            "open_bundle": lambda: open_bundle(bundle, trust),
            "open_bundle_on_one_core": lambda: _on_one_core(lambda: open_bundle(bundle, trust)),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(_TURNS + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if turn:
                    times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    details = {
        "bundle_bytes": size,
        "seconds_per_gb": {name: median / size * 1e9 for name, median in medians.items()},
        "seconds": times,
        "ratio_on_one_core": medians["open_bundle_on_one_core"] / medians["sha256sum"],
    }
    return Measured(medians["open_bundle"] / medians["sha256sum"], details)


def _on_one_core(call: Callable[[], object]) -> None:
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        call()
    finally:
        os.sched_setaffinity(0, cores)


def _signed(bundle: Path) -> Trust:
    """Sign a bundle with a key made for it, and trust that key."""
    key = Ed25519PrivateKey.generate()
    sign_bundle(bundle, [key])
    return Trust((TrustedKey(raw_public(key)),))


def _small_bundle(folder: Path) -> Path:
    """Every kind of file that a bundle may hold, in less than a megabyte."""
    from tests.admitting import verdicts
    from tests.profiles import made_up_profile
    from tests.tiny import KINDS, build_config, save_model, save_processor

    source, out = folder / "checkpoint", folder / "bundle"
    source.mkdir()
    save_model(source, *KINDS["dinov2-llama"])
    save_processor(source)
    export(source, build_config(precision="fp32", target="cpu"), out)
    bundle = open_bundle(out)
    bundle = bundle.with_profile(made_up_profile(bundle), "cpu")
    admitted = verdicts(bundle.manifest.ladder, ("d1", "d2"), bundle.manifest.engines_digest)
    bundle = bundle.with_admissions({"depths": []}, admitted.to_dict())
    bundle.with_bom(bill_of_materials(bundle))
    return out


def _large_bundle(folder: Path) -> Path:
    """The small one with its weights grown to a gigabyte in all; nothing runs it."""
    out = _small_bundle(folder)
    manifest = open_bundle(out).manifest
    weights = [path for path, record in manifest.files.items() if record.role == "weights"]
    draw = random.Random(0)
    for path in weights:
        with (out / path).open("wb") as file:
            for _ in range(_LARGE_BYTES // len(weights) // _PIECE_BYTES):
                file.write(draw.randbytes(_PIECE_BYTES))
    (out / BOM).unlink()
    fields = {name: getattr(manifest, name) for name in Manifest.__dataclass_fields__ if name != "files"}
    seal(out, **{**fields, "admissions": {}})
    return out
