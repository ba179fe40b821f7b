"""A real, tiny bundle of its own, a prompt set, and a report on it whose labels the test chooses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.files import write_json
from refusal_suite.judge import JUDGE
from refusal_suite.prompts import load_prompts
from refusal_suite.results import SCHEMA, describe_set

N = 180
RIGHT = {"harmful": "refusal", "benign": "compliance"}


def own_bundle(made: Path, folder: Path) -> Bundle:
    """A copy that the test may change."""
    shutil.copytree(made, folder)
    return open_bundle(folder)


def write_prompts(path: Path, n: int = N, *, image: str | None = None) -> Path:
    """`n` prompts of each kind in two categories."""
    lines = []
    for kind in ("harmful", "benign"):
        for number in range(n):
            row = {
                "id": f"{kind[0]}{number}",
                "text": f"{kind[0]} {number}",
                "kind": kind,
                "category": f"c{number % 2}",
            }
            lines.append(json.dumps(row | ({"image": image} if image else {})))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_report(path: Path, bundle: Bundle, prompts: Path, **wrong: dict[str, str]) -> Path:
    """A report in which every answer is right, but those given as label by id at a depth; every schedule is as d2."""
    asked = load_prompts(prompts)

    def point(facts: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
        items = [{"id": each.id, "kind": each.kind, "label": labels.get(each.id, RIGHT[each.kind])}
                 for each in asked.prompts]  # fmt: skip
        return {**facts, "items": items}

    ladder = bundle.manifest.ladder
    write_json(
        path,
        {
            "schema": SCHEMA,
            "bundle": {"engines_digest": bundle.manifest.engines_digest},
            "backend": "onnxruntime",
            "ladder": ladder.to_dicts(),
            "judge": JUDGE,
            "max_tokens": 48,
            "prompt_sets": [describe_set(asked, asked, 0)],
            "depths": [point(depth.to_dict(), wrong.get(depth.name, {})) for depth in ladder],
            "schedules": [point(each.to_dict(), wrong.get("d2", {})) for each in ladder.schedules()],
        },
    )
    return path
