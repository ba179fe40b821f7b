"""Claim: evidence that was tampered with, or belongs to something else, admits nothing."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.claims import Measured, claim
from jetson_runtime import load
from jetson_runtime.bundle import Bundle, open_bundle, seal
from jetson_runtime.errors import AdmissionError, HoldfastError
from jetson_runtime.files import read_json, write_json
from jetson_runtime.manifest import Manifest
from refusal_suite.cli import main as refusal_check

__all__ = ["FAULTS", "Workshop", "planted_faults"]


@dataclass(frozen=True)
class Workshop:
    """A bundle that is admitted, one of another checkpoint of the same shape, the prompts, and the report on the first.

    A fault works on `folder`, which is its own.
    """

    admitted: Path
    other: Path
    prompts: Path
    report: Path
    folder: Path

    def copy(self) -> Path:
        """The admitted bundle once more, to be tampered with."""
        return Path(shutil.copytree(self.admitted, self.folder / "bundle"))

    def gate(self, bundle: Path, report: Path, prompts: Path | None = None) -> str:
        """What `refusal-check gate` says: an empty text if it admits, else its error or verdict."""
        said = io.StringIO()
        words = ["gate", bundle, "--report", report, "--prompts", prompts or self.prompts, "--dry-run"]
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            code = refusal_check([str(word) for word in words])
        return "" if code == 0 else f"exit code {code}: {said.getvalue().splitlines()[0]}"


def loads(bundle: Path) -> str:
    """What the runtime says to a bundle: an empty text if it would answer from it."""
    try:
        with load(bundle):
            return ""
    except AdmissionError as error:
        return error.what


def reseal(bundle: Path, original: Bundle, **changes: Any) -> None:
    """A manifest with the digests of the files as they are now, and everything else, admissions too, as it was."""
    kept = {each.name: getattr(original.manifest, each.name) for each in fields(Manifest) if each.name != "files"}
    seal(bundle, **{**kept, **changes})


def segment_replaced(shop: Workshop) -> list[str]:
    """One segment is the other checkpoint's; the manifest is made anew, with the old admissions."""
    bundle = shop.copy()
    segment = open_bundle(bundle).manifest.segments("decoder")[0]
    replaced = 0
    for path in (shop.other / segment.path).parent.iterdir():
        if path.stem == Path(segment.path).stem and path.read_bytes() != (bundle / "engines" / path.name).read_bytes():
            shutil.copyfile(path, bundle / "engines" / path.name)
            replaced += 1
    if not replaced:
        raise HoldfastError("the fault was not planted", found="two checkpoints with the same segment")
    reseal(bundle, open_bundle(shop.admitted))
    return [loads(bundle), shop.gate(bundle, shop.report)]


def byte_changed(shop: Workshop) -> list[str]:
    """One byte of a weights file is another; the manifest is made anew, with the old admissions."""
    bundle = shop.copy()
    original = open_bundle(shop.admitted)
    weights = bundle / next(path for path, record in original.manifest.files.items() if record.role == "weights")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    reseal(bundle, original)
    return [loads(bundle), shop.gate(bundle, shop.report)]


def admitted_elsewhere(shop: Workshop) -> list[str]:
    """The other bundle is given this one's admissions, and this one's report."""
    bundle = Path(shutil.copytree(shop.other, shop.folder / "bundle"))
    source = open_bundle(shop.admitted)
    shutil.copytree(shop.admitted / "reports", bundle / "reports")
    reseal(bundle, open_bundle(shop.other), admissions=source.manifest.admissions)
    return [loads(bundle), shop.gate(bundle, shop.report)]


def prompt_changed(shop: Workshop) -> list[str]:
    """One line of the prompt set says something else."""
    lines = shop.prompts.read_text(encoding="utf-8").splitlines(keepends=True)
    lines[30] = lines[30].replace("h 30", "h  30")
    changed = shop.folder / shop.prompts.name
    changed.write_text("".join(lines), encoding="utf-8")
    return [shop.gate(shop.admitted, shop.report, changed)]


def answers_left_out(shop: Workshop) -> list[str]:
    """The report lacks one answer of a depth, as if it had been a bad one."""
    return [shop.gate(shop.admitted, _edited(shop, lambda report: report["depths"][0]["items"].pop()))]


def other_judge(shop: Workshop) -> list[str]:
    """The answers were judged by older rules."""
    return [shop.gate(shop.admitted, _edited(shop, lambda report: report.update(judge="rules-0")))]


def too_few_prompts(shop: Workshop) -> list[str]:
    """Nothing is wrong with any answer, but so few can't show it."""
    from tests.refusal_suite.gate_bundle import write_prompts, write_report

    prompts = write_prompts(shop.folder / "few.jsonl", 58)
    report = write_report(shop.folder / "few.json", open_bundle(shop.admitted), prompts)
    return [shop.gate(shop.admitted, report, prompts)]


FAULTS: dict[str, Callable[[Workshop], list[str]]] = {
    "a segment of another checkpoint, re-sealed": segment_replaced,
    "a changed byte in the weights, re-sealed": byte_changed,
    "admissions of other engines": admitted_elsewhere,
    "a changed line in the prompt set": prompt_changed,
    "an answer left out of the report": answers_left_out,
    "a report by another judge": other_judge,
    "too few prompts": too_few_prompts,
}
"""Each plants its fault and returns what the product says at every place that must notice; an empty text: nothing."""


@claim("gate.planted-faults", "tampered or foreign evidence that is taken for an admission", "faults", "<=", 0)
def planted_faults() -> Measured:
    """Without a fault everything must pass, or the claim says nothing: that counts as a fault too."""
    with tempfile.TemporaryDirectory() as folder:
        shop = _workshop(Path(folder))
        found: dict[str, Any] = {}
        for number, (name, plant) in enumerate(FAULTS.items()):
            place = Path(folder) / str(number)
            place.mkdir()
            found[name] = plant(Workshop(shop.admitted, shop.other, shop.prompts, shop.report, place))
        sound = [loads(shop.admitted), shop.gate(shop.admitted, shop.report)]
    went_through = sum("" in said for said in found.values()) + any(sound)
    told = {name: [text.replace(folder, "") for text in said] for name, said in found.items()}
    return Measured(went_through, {"faults": told, "without a fault": sound})


def _workshop(folder: Path) -> Workshop:
    from tests.refusal_suite.gate_bundle import write_prompts, write_report

    admitted, other = (_bundle(folder / name, scale) for name, scale in (("realigned", 1.0), ("before", 1.25)))
    prompts = write_prompts(folder / "prompts.jsonl")
    report = write_report(folder / "report.json", open_bundle(admitted), prompts)
    with contextlib.redirect_stdout(io.StringIO()):
        code = refusal_check(["gate", str(admitted), "--report", str(report), "--prompts", str(prompts)])
    if code:
        raise HoldfastError("the bundle without a fault is not admitted", found=f"exit code {code}")
    return Workshop(admitted, other, prompts, report, folder)


def _bundle(folder: Path, scale: float) -> Path:
    """A tiny bundle of random weights, every one of them times `scale`."""
    from safetensors.numpy import load_file, save_file

    from engine_builder.export import export
    from tests.tiny import KINDS, build_config, save_model, save_processor

    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    save_model(checkpoint, *KINDS["clip-llama"])
    save_processor(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    scaled = {name: (value * scale).astype(value.dtype) for name, value in weights.items()}
    save_file(scaled, checkpoint / "model.safetensors", metadata={"format": "pt"})
    export(checkpoint, build_config(precision="fp32", target="cpu"), folder / "bundle")
    return folder / "bundle"


def _edited(shop: Workshop, change: Callable[[Any], object]) -> Path:
    report = read_json(shop.report)
    change(report)
    path = shop.folder / "edited.json"
    write_json(path, report)
    return path
