"""The model card in the bill of materials: what the model takes and gives, and every figure that the bundle carries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jetson_runtime.admission import ADMITTED, Admissions
from jetson_runtime.bundle import Bundle

__all__ = ["model_card"]


def model_card(bundle: Bundle, report: Mapping[str, Any], datasets: Sequence[str]) -> dict[str, Any]:
    """CycloneDX's `modelCard`; `datasets` are the bom-refs of the prompt sets that `report` was measured on."""
    model = bundle.manifest.model
    metrics = [*_verdicts(bundle), *_rates(report), *_latencies(bundle)]
    return {
        "modelParameters": {
            "task": "answering questions about a picture, and text generation",
            "architectureFamily": "transformer, vision-language, early exit",
            "modelArchitecture": f"LLaVA: {model.vision_family} image encoder of {model.vision_layers} layers, "
            f"{model.decoder_family} decoder of {model.decoder_layers} layers",
            "datasets": [{"ref": name} for name in datasets],
            "inputs": [{"format": "text"}, {"format": "image"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": {"technicalLimitations": list(_limitations(bundle))},
    }


def _admissions(bundle: Bundle) -> Admissions:
    return Admissions.from_dict(bundle.manifest.admissions, bundle.manifest.engines_digest)


def _verdicts(bundle: Bundle) -> Iterator[dict[str, Any]]:
    admissions = _admissions(bundle)
    for kind, verdicts in (("depth", admissions.depths), ("schedule", admissions.schedules)):
        for name, verdict in sorted(verdicts.items()):
            yield {"type": "refusal gate", "value": verdict.verdict, "slice": f"{kind} {name}"}


def _rates(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for depth in report.get("depths", []):
        for name, rate in sorted(depth.get("rates", {}).items()):
            if rate.get("rate") is None:
                continue
            yield {
                "type": f"{name} rate",
                "value": f"{rate['rate']:.4f}",
                "slice": f"depth {depth['name']}, {rate['hits']} of {rate['n']} answers",
                "confidenceInterval": {"lowerBound": f"{rate['low']:.4f}", "upperBound": f"{rate['high']:.4f}"},
            }


def _latencies(bundle: Bundle) -> Iterator[dict[str, Any]]:
    for name, profile in sorted(bundle.profiles().items()):
        for row in profile.rows:
            if row.scope == "exit" and row.state == "warm":
                yield {
                    "type": f"{row.phase} latency, 99th percentile, ms",
                    "value": f"{row.p99_ms:.3f}",
                    "slice": f"profile {name}, exit {row.layer}, {row.tokens} tokens, {row.count} runs",
                }


def _limitations(bundle: Bundle) -> Iterator[str]:
    admissions = _admissions(bundle)
    for depth in bundle.manifest.ladder:
        verdict = admissions.depths.get(depth.name)
        if verdict is None:
            yield f"Depth {depth} has not been through the refusal gate."
        elif verdict.verdict != ADMITTED:
            yield f"Depth {depth} is not admitted ({verdict.verdict}): {verdict.reason}"
