"""A bundle of a few bytes with LLaVA's shape, and what the commands would write about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jetson_runtime.bundle import PORTABLE_TARGET, Bundle, open_bundle, seal
from jetson_runtime.ladder import Ladder
from jetson_runtime.manifest import Engine, ModelFacts, SharedTensor
from jetson_runtime.profile import LatencyProfile, Row
from refusal_suite.judge import COMPLIANCE, INCOHERENT, REFUSAL, Verdict
from refusal_suite.measure import Item
from refusal_suite.prompts import HARMFUL, load_prompts
from refusal_suite.results import build_report, depth_result, describe_set

LADDER = [{"name": "d1", "vision": 6, "decoder": 12}, {"name": "d2", "vision": 23, "decoder": 32}]
MODEL = ModelFacts(
    id="page-model", version="1.2.3", vision_family="clip", decoder_family="llama", vision_layers=24,
    decoder_layers=32, image_size=336, image_tokens=576, vision_tokens=577, vision_width=1024, decoder_width=4096,
    vocabulary=32064, kv_heads=32, head_dim=128, kv_capacity=1024, image_token_id=32000, stop_token_ids=(2,),
)  # fmt: skip
# name, role, tower, first, last, bytes of the graph, bytes of the weights beside it, shared
ENGINES = (
    ("vision.01-06", "segment", "vision", 1, 6, 1000, 6_000_000, ()),
    ("vision.07-23", "segment", "vision", 7, 23, 2000, 17_000_000, ()),
    ("projector", "head", "vision", 0, 0, 500, 1_000_000, ()),
    ("embedding", "embedding", "decoder", 0, 0, 100, 0, ("token_table",)),
    ("decoder.01-12", "segment", "decoder", 1, 12, 3000, 12_000_000, ()),
    ("decoder.13-32", "segment", "decoder", 13, 32, 4000, 20_000_000, ()),
    ("lm_head", "head", "decoder", 0, 0, 200, 0, ("token_table",)),
)
TABLE_BYTES = 4_000_000


def make_bundle(folder: Path, *, kind: str = "portable", ladder: list[dict[str, Any]] = LADDER) -> Bundle:
    """A bundle that opens; its files hold zeros of the right length."""
    suffix = "onnx" if kind == "portable" else "engine"
    (folder / "engines").mkdir(parents=True)
    engines = []
    for name, role, tower, first, last, graph, weights, shared in ENGINES:
        path = f"engines/{name}.{suffix}"
        if kind == "portable":
            _zeros(folder / path, graph)
            _zeros(folder / f"engines/{name}.weights", weights)
        else:
            _zeros(folder / path, graph + weights + 1_000_000)
        engines.append(Engine(name, role, tower, path, (), (), first, last, shared))
    _zeros(folder / "engines/token_table.weights", TABLE_BYTES)
    target = PORTABLE_TARGET
    if kind == "engine":
        target = {"name": "rtx-sm86", "compiler": "tensorrt-rtx", "compiler_version": "1.7.1", "title": "x"}
    seal(
        folder, kind=kind, release=7, precision="fp16", model=MODEL, target=target, ladder=Ladder.from_dicts(ladder),
        engines=tuple(engines), provenance={"checkpoint": {"sha256": "ef" * 32}},
        shared=(SharedTensor("token_table", "engines/token_table.weights", "float16", (1, 1)),),
    )  # fmt: skip
    return open_bundle(folder)


def _zeros(path: Path, size: int) -> None:
    if size:
        with path.open("wb") as file:
            file.truncate(size)


def make_profile(bundle: Bundle) -> LatencyProfile:
    """Medians 20/60 (vision), 200/500 (prompt of 620), 30/70 (step) ms at d1/d2; the 99th percentile is 10 % more."""
    times = {("vision", 6): 20.0, ("vision", 23): 60.0, ("prefill", 12): 200.0, ("prefill", 32): 500.0,
             ("decode", 12): 30.0, ("decode", 32): 70.0}  # fmt: skip
    counts = {"vision": 577, "prefill": 620, "decode": 1}
    rows = tuple(
        Row(phase, "exit", "", layer, counts[phase], "warm", 30, time, time * 1.05, time * 1.1)
        for (phase, layer), time in times.items()
    )
    machine = {"architecture": "x86_64", "cpu": {"model": "Test CPU", "cores_usable": 4}}
    return LatencyProfile(
        rows, bundle.manifest.engines_digest, "onnxruntime", machine,
        model={"image_prompt_tokens": 620}, method={"measured_at": "2026-05-04T10:20:30+00:00"},
    )  # fmt: skip


def make_refusals(bundle: Bundle, *, ladder: list[dict[str, Any]] = LADDER, schedules: bool = False) -> dict[str, Any]:
    """Of 264 harmful prompts d1 refuses all but every third, one answer is incoherent; other depths refuse all.

    Margins of harmful prompts are near 1.5 at d1 and 2 elsewhere, of harmless ones -3. Schedules answer as full depth.
    """
    prompts = load_prompts()
    facts = {
        "model": {"id": MODEL.id, "version": MODEL.version}, "release": 7, "bundle_digest": bundle.digest,
        "engines_digest": bundle.manifest.engines_digest, "backend": "onnxruntime", "ladder": ladder,
    }  # fmt: skip
    results = {}
    for depth in ladder:
        harmful = 0
        items = []
        for prompt in prompts.prompts:
            label, margin = COMPLIANCE, -3.0
            if prompt.kind == HARMFUL:
                harmful += 1
                label = COMPLIANCE if depth["name"] == "d1" and harmful % 3 == 0 else REFUSAL
                label = INCOHERENT if depth["name"] == "d1" and harmful == 1 else label
                margin = 1.5 + harmful % 5 / 10 if depth["name"] == "d1" else 2.0
            items.append(Item(prompt, "an answer", Verdict(label, "rule"), 3, "stop", margin))
        results[depth["name"]] = items
    full = results[ladder[-1]["name"]]
    depths = [depth_result(each, results[each["name"]], None if each == ladder[-1] else full) for each in ladder]
    ran = [depth_result(each.to_dict(), full, full) for each in Ladder.from_dicts(ladder).schedules()]
    return build_report(facts, [describe_set(prompts, prompts, 0)], 48, depths, ran if schedules else [])


def answered(text: str, depth: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What `jetson-runtime ask --json` prints."""
    tokens = [
        {"id": n, "text": word, "depth": depth["name"], "at_ms": 100.0 + n} for n, word in enumerate(text.split())
    ]
    return {
        "text": text, "tokens": tokens, "depth": depth, "finish_reason": "stop", "prompt_tokens": 610,
        "predicted_ms": 812.0, "first_token_ms": 301.0, "elapsed_ms": 644.0, **changes,
    }  # fmt: skip
