"""Claims about the whole road: weights once, parity, the same answers, bad input, the demo's time."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.claims import ROOT, Measured, claim
from benchmarks.workspace import EXITS, LADDERS, bundle, checkpoint, picture, scratch
from engine_builder.check import check
from engine_builder.reference import Reference
from jetson_runtime import Request, load
from jetson_runtime.bundle import Bundle

QUESTIONS = (
    "What colour is the sign?",
    "What do you see?",
    "Is there a car in the picture?",
    "What shape is the sign?",
)


@claim(
    "end-to-end.weights-once", "bundle bytes / weight bytes, worst of ladders of 1, 3 and 6 depths", "ratio", "<=", 1.05
)
def weights_once() -> Measured:
    """Beside it: the same ladder as one whole engine per depth."""
    details = {}
    for count, ladder in LADDERS.items():
        made = bundle(ladder)
        whole = 0
        for exits in ladder:
            single = bundle([exits]) if len(ladder) > 1 else made
            whole += total_bytes(single.path)
            if single is not made:
                with scratch(single.path):
                    pass
        details[f"{count} depths"] = {
            "bundle_bytes": total_bytes(made.path),
            "weight_bytes": weight_bytes(made),
            "ratio": total_bytes(made.path) / weight_bytes(made),
            "one_whole_engine_per_depth_bytes": whole,
        }
        with scratch(made.path):
            pass
    return Measured(max(row["ratio"] for row in details.values()), details)


def total_bytes(folder: Path) -> int:
    """What a bundle takes on the disk."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def weight_bytes(made: Bundle) -> int:
    """Every parameter that full depth uses, once, in the exported precision; from the checkpoint's own tensors."""
    from engine_builder.checkpoint import Checkpoint

    source = Checkpoint(checkpoint())
    width = {"fp32": 4, "fp16": 2}[made.manifest.precision]
    # The mask token, the vision tower's final norm and blocks behind full depth are never built; the position table is
    # resampled from 37 x 37 to 16 x 16. Only what the bundle must hold is counted.
    unused = re.compile(r"mask_token|position_embeddings|vision_tower\.layernorm")
    total = sum(source.tensor(name).size for name in source.files if not unused.search(name))
    model = made.manifest.model
    return width * (total + model.vision_tokens * model.vision_width)


@claim(
    "end-to-end.parity-error",
    "worst relative error of a segment or depth against PyTorch, fp32",
    "relative",
    "<=",
    1e-4,
)
def parity_error() -> Measured:
    """Also counts the greedy tokens, which are their own claim."""
    results = list(check(bundle(EXITS), checkpoint(), image=picture().read_bytes(), tokens=64))
    return Measured(max(item.error for item in results), {item.name: item.error for item in results})


@claim(
    "end-to-end.greedy-tokens",
    "greedy tokens the same as PyTorch's, 64 at every depth, with and without image",
    "share",
    ">=",
    1,
)
def greedy_tokens() -> Measured:
    """The share over all depths."""
    results = list(check(bundle(EXITS), checkpoint(), image=picture().read_bytes(), tokens=64))
    rows = {item.name: (item.same_tokens or 0, item.tokens) for item in results if item.tokens is not None}
    return Measured(sum(same for same, _ in rows.values()) / sum(count for _, count in rows.values()), rows)


@claim("end-to-end.same-answers", "answers that differ from transformers' at the same exits", "answers", "<=", 0)
def same_answers() -> Measured:
    """Four questions about a picture at every depth, text against text."""
    reference, details, different = Reference(checkpoint()), {}, 0
    with load(bundle(EXITS).path, allow_unadmitted=True) as runtime:
        for depth in runtime.bundle.manifest.ladder:
            for question in QUESTIONS:
                ours = runtime.invoke(Request(question, image=picture(), max_tokens=32, depth=depth.name)).text
                theirs = reference.text(depth, question, picture().read_bytes(), 32)
                different += ours != theirs
                details[f"{depth.name}: {question}"] = {"bundle": ours, "transformers": theirs}
    return Measured(different, details)


@claim(
    "end-to-end.bad-input",
    "cases of bad input that do not end in a clear error (of tests/test_bad_input.py)",
    "cases",
    "<=",
    0,
)
def bad_input() -> Measured:
    """Each case is a test that checks file, found, expected and remedy."""
    command = [sys.executable, "-m", "pytest", "tests/test_bad_input.py", "-o", "addopts=", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = done.stdout.strip().splitlines()[-1]
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", summary)}
    bad = sum(count for word, count in counts.items() if word != "passed") + (not counts.get("passed"))
    return Measured(bad, counts)


@claim("end-to-end.demo", "`make demo` on a clean clone, environment included, packages cached", "minutes", "<=", 10)
def demo() -> Measured:
    """A fresh clone of HEAD in a temporary place."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "holdfast"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        start = time.monotonic()
        subprocess.run(["make", "demo"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        minutes = (time.monotonic() - start) / 60
        page = clone / "build" / "demo" / "report.html"
        return Measured(minutes, {"page_bytes": page.stat().st_size})
