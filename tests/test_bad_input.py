"""Bad input ends in one message (which file, what was found, what was expected, what to do), never in a traceback."""

from __future__ import annotations

import io
import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image
from tiny import build_values

from jetson_runtime.bundle import open_bundle
from jetson_runtime.files import write_json


@dataclass(frozen=True)
class Place:
    """A copy of a tiny checkpoint and its bundle that a case may damage."""

    checkpoint: Path
    bundle: Path
    folder: Path

    def build_yaml(self, **changes: object) -> Path:
        path = self.folder / "build.yaml"
        path.write_text(
            yaml.safe_dump(build_values(**{"precision": "fp32", "target": "cpu", **changes})), encoding="utf-8"
        )
        return path

    def export(self, **changes: object) -> tuple[object, ...]:
        return (
            "engine-build",
            "export",
            self.checkpoint,
            "--config",
            self.build_yaml(**changes),
            "--out",
            self.folder / "out",
        )

    def ask(self, *options: object, prompt: str = "hello") -> tuple[object, ...]:
        return ("jetson-runtime", "ask", self.bundle, "--allow-unadmitted", "--prompt", prompt, *options)

    def edit_config(self, change: Callable[[dict], object]) -> None:
        path = self.checkpoint / "config.json"
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")


MODULES = {"engine-build": "engine_builder.cli", "jetson-runtime": "jetson_runtime.cli"}


def command(words: tuple[object, ...]) -> list[str]:
    return [
        sys.executable,
        "-c",
        f"import sys; from {MODULES[str(words[0])]} import main; sys.exit(main())",
        *map(str, words[1:]),
    ]


@pytest.fixture
def place(tmp_path: Path, tiny_llava: Callable[[str], Path], tiny_bundle: Callable[[str, str], Path]) -> Place:
    checkpoint, bundle = tmp_path / "checkpoint", tmp_path / "bundle"
    shutil.copytree(tiny_llava("clip-llama"), checkpoint)
    shutil.copytree(tiny_bundle("clip-llama", "fp32"), bundle)
    return Place(checkpoint, bundle, tmp_path)


def split_in_shards(place: Place) -> list[Path]:
    """The checkpoint's one file as two shards with an index, as large checkpoints have them."""
    from safetensors.numpy import load_file, save_file

    whole = place.checkpoint / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    shards = [place.checkpoint / f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        save_file({name: tensors[name] for name in part}, shard)
    index = {name: shards[number % 2].name for number, name in enumerate(names)}
    write_json(place.checkpoint / "model.safetensors.index.json", {"weight_map": index})
    whole.unlink()
    return shards


def missing_shard(place: Place) -> tuple[object, ...]:
    split_in_shards(place)[1].unlink()
    return place.export()


def cut_shard(place: Place) -> tuple[object, ...]:
    shard = split_in_shards(place)[0]
    shard.write_bytes(shard.read_bytes()[:-1000])
    return place.export()


def overwritten_shard(place: Place) -> tuple[object, ...]:
    (place.checkpoint / "model.safetensors").write_bytes(b"\0" * 4096)
    return place.export()


def unknown_family(place: Place) -> tuple[object, ...]:
    place.edit_config(lambda config: config["text_config"].update(model_type="mamba"))
    return place.export()


def not_llava(place: Place) -> tuple[object, ...]:
    place.edit_config(lambda config: config.update(model_type="llama"))
    return place.export()


def exit_beyond_the_tower(place: Place) -> tuple[object, ...]:
    return place.export(ladder=[{"name": "d1", "vision": 3, "decoder": 99}])


def ladder_not_increasing(place: Place) -> tuple[object, ...]:
    depths = [{"name": "d1", "vision": 3, "decoder": 4}, {"name": "d2", "vision": 2, "decoder": 4}]
    return place.export(ladder=depths)


def unreadable_image(place: Place) -> tuple[object, ...]:
    (place.folder / "road.png").write_bytes(b"no picture")
    return place.ask("--image", place.folder / "road.png")


def huge_image(place: Place) -> tuple[object, ...]:
    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    (place.folder / "road.png").write_bytes(buffer.getvalue())
    return place.ask("--image", place.folder / "road.png")


def digest_mismatch(place: Place) -> tuple[object, ...]:
    path = place.bundle / "engines/lm_head.weights"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    return place.ask()


CASES: list[tuple[Callable[[Place], tuple[object, ...]], int, tuple[str, ...]]] = [
    (missing_shard, 3, ("model-00002-of-00002.safetensors", "found: missing", "expected:", "remedy:")),
    (cut_shard, 3, ("model-00001-of-00002.safetensors", "found: damaged", "expected:", "remedy:")),
    (overwritten_shard, 3, ("model.safetensors", "found: damaged", "expected:", "remedy:")),
    (unknown_family, 3, ("config.json", "found: mamba", "expected: llama or", "remedy:")),
    (not_llava, 3, ("config.json", "found: model_type 'llama'", "expected: model_type 'llava'", "remedy:")),
    (exit_beyond_the_tower, 2, ("exit 99", "found: exits [99]", "expected: layers 1 to 4", "config.json", "remedy:")),
    (ladder_not_increasing, 2, ("build.yaml", "not increasing", "d2 (vision 2, decoder 4) after d1", "remedy:")),
    (unreadable_image, 2, ("road.png", "found:", "expected: PNG", "remedy:")),
    (huge_image, 2, ("road.png", "found: 9000 × 9000 pixels", "expected: at most 64 million", "remedy:")),
    (lambda place: place.ask(prompt=" "), 2, ("prompt is empty", "expected:", "remedy:")),
    (lambda place: place.ask(prompt="word " * 40), 2, ("longer than the KV cache", "found: ", "at most 64", "remedy:")),
    (lambda place: place.ask("--budget-ms", 0), 2, ("answer_ms", "found: 0.0 ms", "expected:", "greater than 0")),
    (
        lambda place: place.ask("--depth", "d1", "--schedule", "d2>d1@4"), 2,
        ("both a depth and a schedule", "found: depth d1, schedule d2>d1@4", "expected:", "remedy:"),
    ),
    (
        lambda place: place.ask("--schedule", "d2>d1@5"), 2,
        ("no schedule 'd2>d1@5'", "expected: one of d2>d1, each with one of @vision", "remedy:"),
    ),
    (
        lambda place: ("jetson-runtime", "ask", place.bundle, "--prompt", "hello"), 3,
        ("no depth that may be used", "found: d1 not tested, d2 not tested", "expected:", "refusal-check gate"),
    ),
    (digest_mismatch, 3, ("lm_head.weights", "found: sha256", "expected: sha256", "remedy:")),
]  # fmt: skip


@pytest.mark.parametrize(("case", "code", "words"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_a_clear_error(
    place: Place, case: Callable[[Place], tuple[object, ...]], code: int, words: tuple[str, ...]
) -> None:
    done = subprocess.run(command(case(place)), capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr
    assert not (place.folder / "out").exists()


def test_every_mistake_in_build_yaml_is_told_at_once(place: Place) -> None:
    words = place.export(precision="fp7", kv_capacity=0, typo=1, ladder=[{"name": "d1", "vision": 0, "decoder": 4}])
    done = subprocess.run(command(words), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    for word in ("precision: 'fp7'", "kv_capacity: 0", "unknown field 'typo'", "ladder[0]", "4 mistakes"):
        assert word in done.stderr


def test_a_full_disk_leaves_nothing_half_made(place: Place) -> None:
    words = place.export()

    def files_stay_small() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    done = subprocess.run(command(words), capture_output=True, text=True, check=False, preexec_fn=files_stay_small)
    assert done.returncode == 6, done.stderr
    assert "can't be written" in done.stderr
    assert "free some space" in done.stderr
    assert sorted(path.name for path in place.folder.iterdir()) == ["build.yaml", "bundle", "checkpoint"]


def test_a_killed_build_leaves_no_bundle_and_the_next_one_succeeds(place: Place) -> None:
    words, out, partial = place.export(), place.folder / "out", place.folder / ".out.partial"
    for _ in range(10):
        build = subprocess.Popen(command(words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while build.poll() is None and not partial.exists():
            time.sleep(0.001)
        build.kill()
        build.wait()
        if build.returncode == -signal.SIGKILL:
            break
        shutil.rmtree(out)
    assert build.returncode == -signal.SIGKILL, "the build was never caught under way"
    assert not out.exists()
    assert subprocess.run(command(words), capture_output=True, check=False).returncode == 0
    assert open_bundle(out).manifest.model.id == "tiny"
    assert not partial.exists()
