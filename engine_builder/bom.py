"""`engine-build bom`: a bill of materials in CycloneDX 1.6 (ECMA-424), with the model card and what was measured.

It is a function of the bundle alone: the same bundle gives the same bytes on every machine. Its serial number is made
from the rest of the bundle, so a bill of another state of it is recognised.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine_builder.model_card import model_card
from jetson_runtime.admission import Admissions
from jetson_runtime.bundle import BOM, Bundle, open_bundle
from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import BundleError, ConfigError
from jetson_runtime.files import canonical_json, read_json
from jetson_runtime.trust import time_text

__all__ = ["add_bom", "bill_of_materials", "check_bom"]

_MODEL = "model"


def add_bom(commands: Commands) -> None:
    """Add `engine-build bom`."""
    parser = subcommand(
        commands,
        "bom",
        f"write a CycloneDX 1.6 bill of materials with a model card into a bundle, as {BOM}",
        _bom,
        examples="  engine-build bom build/bundle\n  engine-build bom build/bundle --json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle that is not signed yet")
    parser.add_argument("--json", action="store_true", help="print the bill as well")


def _bom(arguments: argparse.Namespace) -> int:
    bundle = open_bundle(arguments.bundle)
    bundle.check_changeable()
    bom = bill_of_materials(bundle, _source_date())
    bundle = bundle.with_bom(bom)
    if arguments.json:
        print(canonical_json(bom), end="")
    else:
        metrics = bom["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        print(f"{bundle.file(BOM)}: {len(bom['components'])} components, {len(metrics)} metrics")
    return 0


def check_bom(bundle: Bundle) -> None:
    """Whether the bill of materials in a bundle, if there is one, is of the bundle as it is now.

    Raises:
        BundleError: something was added or replaced since.
    """
    if BOM not in bundle.manifest.files:
        return
    found = _mapping(read_json(bundle.file(BOM))).get("serialNumber")
    if found != _serial_number(bundle):
        raise BundleError(
            f"{bundle.file(BOM)} was written before the bundle was complete",
            found=f"serial number {found}",
            expected=_serial_number(bundle),
            remedy=f"run 'engine-build bom {bundle.path}' again",
        )


def bill_of_materials(bundle: Bundle, moment: datetime | None = None) -> dict[str, Any]:
    """The bill, as the value of its JSON; `moment` is its timestamp (None: it has none).

    Raises:
        BundleError, AdmissionError: the refusal report or the admissions in the bundle can't be read.
    """
    manifest, model = bundle.manifest, bundle.manifest.model
    report = _report(bundle)
    try:
        data = list(_prompt_sets(report))
        card = model_card(bundle, report, [part["bom-ref"] for part in data])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BundleError(
            f"the refusal report in {bundle.path} can't be read",
            found=repr(error),
            expected="what 'refusal-check gate' writes",
            remedy="run 'refusal-check gate' on this bundle again",
        ) from None
    component = {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": model.id,
        "version": model.version,
        "properties": _properties(
            {
                "engines_digest": manifest.engines_digest,
                "release": manifest.release,
                "kind": manifest.kind,
                "precision": manifest.precision,
                "target": manifest.target["name"],
            }
        ),
        "modelCard": card,
    }
    ancestors = list(_ancestors(bundle))
    if ancestors:
        component["pedigree"] = {"ancestors": ancestors}
    tool = {"type": "application", "name": "holdfast", "version": version("holdfast")}
    metadata: dict[str, Any] = {"tools": {"components": [tool]}, "component": component}
    if moment is not None:
        metadata["timestamp"] = time_text(moment)
    components = [*data, *_libraries(bundle), *_files(bundle)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": _serial_number(bundle),
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": [{"ref": _MODEL, "dependsOn": [part["bom-ref"] for part in components]}],
    }


def _serial_number(bundle: Bundle) -> str:
    """Of everything in the bundle but the bill itself; a UUID of version 5."""
    files = {path: vars(record) for path, record in bundle.manifest.files.items() if path != BOM}
    digest = hashlib.sha256(canonical_json({**bundle.manifest.to_dict(), "files": files}).encode()).hexdigest()
    return f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:holdfast:bom:{digest}')}"


def _report(bundle: Bundle) -> Mapping[str, Any]:
    """The refusal report that the admissions rest on; empty if nothing was admitted or rejected yet."""
    admissions = Admissions.from_dict(bundle.manifest.admissions, bundle.manifest.engines_digest)
    value = read_json(bundle.file(admissions.report)) if admissions.report in bundle.manifest.files else {}
    return _mapping(value)


def _prompt_sets(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for entry in report.get("prompt_sets", []):
        properties = _properties({f"prompts.{kind}": count for kind, count in sorted(entry.get("n", {}).items())})
        yield {
            "type": "data",
            "bom-ref": f"data:{entry['name']}:{entry['sha256'][:12]}",
            "name": entry["name"],
            "hashes": [_sha256(entry["sha256"])],
            "data": [{"type": "dataset", "name": entry["name"], "description": "prompts of the refusal suite"}],
            "properties": properties,
        }


def _libraries(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """Whatever made the bundle: every tool with its version that the provenance names, and the engines' compiler."""
    tools = set(_tools(bundle.manifest.provenance))
    target = bundle.manifest.target
    if "compiler_version" in target:
        tools.add((str(target["compiler"]), str(target["compiler_version"])))
    for name, number in sorted(tools):
        yield {"type": "library", "bom-ref": f"library:{name}@{number}", "name": name, "version": number}


def _tools(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "tools" and isinstance(inner, dict):
                yield from ((name, number) for name, number in inner.items() if isinstance(number, str))
            else:
                yield from _tools(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _tools(inner)


def _files(bundle: Bundle) -> Iterator[dict[str, Any]]:
    for path, record in sorted(bundle.manifest.files.items()):
        if path != BOM:
            yield {
                "type": "file",
                "bom-ref": f"file:{path}",
                "name": path,
                "hashes": [_sha256(record.sha256)],
                "properties": _properties({"role": record.role, "size_bytes": record.size_bytes}),
            }


def _ancestors(bundle: Bundle) -> Iterator[dict[str, Any]]:
    """What the checkpoint was put together from, by its own record, where that has the form of ours."""
    checkpoint = _mapping(bundle.manifest.provenance.get("checkpoint"))
    if isinstance(checkpoint.get("sha256"), str):
        yield {"type": "machine-learning-model", "name": "checkpoint", "hashes": [_sha256(checkpoint["sha256"])]}
    for name, value in sorted(_mapping(_mapping(checkpoint.get("record")).get("parts")).items()):
        part = _mapping(value)
        package, licence, digest = (part.get(field) for field in ("package", "licence", "payload_sha256"))
        if isinstance(package, str) and isinstance(licence, str) and isinstance(digest, str):
            yield {
                "type": "machine-learning-model",
                "name": name,
                "description": f"weights from the package {package}",
                "hashes": [_sha256(digest)],
                "licenses": [{"license": {"name": licence}}],
            }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _properties(values: Mapping[str, Any]) -> list[dict[str, str]]:
    return [{"name": f"holdfast:{name}", "value": str(value)} for name, value in values.items()]


def _source_date() -> datetime | None:
    """SOURCE_DATE_EPOCH (reproducible-builds.org): seconds since 1970."""
    text = os.environ.get("SOURCE_DATE_EPOCH")
    if not text:
        return None
    try:
        return datetime.fromtimestamp(int(text), timezone.utc)
    except (ValueError, OverflowError, OSError):
        raise ConfigError("SOURCE_DATE_EPOCH can't be used", found=text, expected="whole seconds since 1970") from None
