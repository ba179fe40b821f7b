"""The bill of materials: valid CycloneDX 1.6, the same bytes everywhere, and of the bundle as it is signed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from profiles import made_up_profile
from signing import signed, trust

from engine_builder.bom import bill_of_materials
from engine_builder.cli import main
from jetson_runtime.admission import Admissions, Verdict
from jetson_runtime.bundle import BOM, MANIFEST, Bundle, open_bundle
from jetson_runtime.errors import BundleError
from jetson_runtime.files import canonical_json

REPORT = {
    "depths": [
        {
            "name": "d1",
            "rates": {
                "refusal": {"hits": 90, "n": 100, "rate": 0.9, "low": 0.8256, "high": 0.9448},
                "over_refusal": {"hits": 0, "n": 0, "rate": None, "low": None, "high": None},
            },
        }
    ],
    "prompt_sets": [{"name": "holdfast-1", "sha256": "ab" * 32, "n": {"harmful": 100, "benign": 0}}],
}


@pytest.fixture
def bundle(tiny_bundle: Callable[[str, str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle("dinov2-llama", "fp32"), tmp_path / "bundle"))


@pytest.fixture
def measured(bundle: Path) -> Bundle:
    """With a profile, and admissions that rest on a report."""
    opened = open_bundle(bundle)
    opened = opened.with_profile(made_up_profile(opened), "here")
    verdicts = {"d1": Verdict("rejected", "90 of 100 refused"), "d2": Verdict("admitted", "it is the reference")}
    schedules = {"d2>d1@prefill": Verdict("not tested", "")}
    made = Admissions(opened.manifest.engines_digest, "", {}, verdicts, schedules)
    return opened.with_admissions(REPORT, made.to_dict())


def check_schema(value: Any) -> None:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(canonical_json(value))
    assert error is None, repr(error)[:2000]


def read(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / BOM).read_text(encoding="utf-8"))


def test_a_bare_bundle_s_bill_is_valid_and_listed(bundle: Path) -> None:
    assert main(["bom", str(bundle)]) == 0
    check_schema(read(bundle))
    opened = open_bundle(bundle)
    assert opened.manifest.files[BOM].role == "bom"
    files = {
        part["name"]: part["hashes"][0]["content"] for part in read(bundle)["components"] if part["type"] == "file"
    }
    assert files == {path: record.sha256 for path, record in opened.manifest.files.items() if path != BOM}
    limits = read(bundle)["metadata"]["component"]["modelCard"]["considerations"]["technicalLimitations"]
    assert len(limits) == 2 and all("not been through the refusal gate" in text for text in limits)
    assert "timestamp" not in read(bundle)["metadata"]


def test_the_model_card_carries_verdicts_rates_and_latencies(measured: Bundle) -> None:
    assert main(["bom", str(measured.path)]) == 0
    bom = read(measured.path)
    check_schema(bom)
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and (model["name"], model["version"]) == ("tiny", "1.0")
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert {"type": "refusal gate", "value": "rejected", "slice": "depth d1"} in metrics
    assert {"type": "refusal gate", "value": "not tested", "slice": "schedule d2>d1@prefill"} in metrics
    assert {
        "type": "refusal rate",
        "value": "0.9000",
        "slice": "depth d1, 90 of 100 answers",
        "confidenceInterval": {"lowerBound": "0.8256", "upperBound": "0.9448"},
    } in metrics
    assert not [metric for metric in metrics if metric["type"] == "over_refusal rate"]
    assert {
        "type": "prefill latency, 99th percentile, ms",
        "value": "2.000",
        "slice": "profile here, exit 2, 8 tokens, 10 runs",
    } in metrics
    [limit] = model["modelCard"]["considerations"]["technicalLimitations"]
    assert "d1" in limit and "90 of 100 refused" in limit
    [data] = [part for part in bom["components"] if part["type"] == "data"]
    assert data["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert model["modelCard"]["modelParameters"]["datasets"] == [{"ref": data["bom-ref"]}]
    libraries = {part["name"]: part["version"] for part in bom["components"] if part["type"] == "library"}
    assert libraries == measured.manifest.provenance["tools"]


def test_the_same_bundle_gives_the_same_bytes_and_another_one_another_serial_number(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_bundle(bundle)
    first = bill_of_materials(opened)
    assert bill_of_materials(opened.with_bom(first)) == first
    other = open_bundle(bundle).with_profile(made_up_profile(opened), "here")
    assert bill_of_materials(other)["serialNumber"] != first["serialNumber"]
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    assert main(["bom", str(bundle)]) == 0
    assert read(bundle)["metadata"]["timestamp"] == "2025-06-15T15:06:40Z"
    check_schema(read(bundle))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert main(["bom", str(bundle)]) == 2


def test_a_bill_of_an_earlier_state_is_not_signed(bundle: Path) -> None:
    opened = open_bundle(bundle)
    opened = opened.with_bom(bill_of_materials(opened)).with_profile(made_up_profile(opened), "here")
    with pytest.raises(BundleError, match="before the bundle was complete"):
        signed(bundle, 1)
    opened.with_bom(bill_of_materials(opened))
    assert open_bundle(signed(bundle, 1), trust(1)).manifest.files[BOM]


def test_a_signed_bundle_is_refused(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signed(bundle, 1)
    assert main(["bom", str(bundle)]) == 3
    assert "is signed and can't be changed" in capsys.readouterr().err


def test_what_the_checkpoint_says_of_itself_becomes_its_pedigree(bundle: Path) -> None:
    part = {"package": "weights==1.0", "licence": "Apache-2.0", "payload_sha256": "cd" * 32}
    for record, names in (
        ({"parts": {"decoder": part}, "adapters": {"a": {"tools": {"torch": "2"}}}}, ["checkpoint", "decoder"]),
        ({"parts": {"decoder": "x", "other": {"package": 1}}}, ["checkpoint"]),
        (["no", "record"], ["checkpoint"]),
    ):
        value = json.loads((bundle / MANIFEST).read_text())
        value["provenance"]["checkpoint"]["record"] = record
        (bundle / MANIFEST).write_text(canonical_json(value))
        bom = bill_of_materials(open_bundle(bundle))
        check_schema(bom)
        assert [one["name"] for one in bom["metadata"]["component"]["pedigree"]["ancestors"]] == names
        assert ("torch" in {one["name"] for one in bom["components"]}) == (len(names) == 2)


@pytest.mark.parametrize(
    "report",
    [
        {"depths": [{"rates": {"refusal": {"rate": 0.5}}}]},
        {"depths": 5},
        {"depths": ["x"]},
        {"prompt_sets": [{"name": "x"}]},
    ],
)
def test_a_report_of_another_form_is_refused(bundle: Path, report: dict[str, Any]) -> None:
    opened = open_bundle(bundle)
    made = Admissions(opened.manifest.engines_digest, "", {}).to_dict()
    with pytest.raises(BundleError, match=r"the refusal report in .* can't be read"):
        bill_of_materials(opened.with_admissions(report, made))


def test_a_bill_that_is_no_bill_is_not_signed(bundle: Path) -> None:
    open_bundle(bundle).with_bom([])  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="before the bundle was complete"):
        signed(bundle, 1)
