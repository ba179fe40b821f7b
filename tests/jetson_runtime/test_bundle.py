from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing import signed, trust

from jetson_runtime.admission import Admissions, Verdict
from jetson_runtime.bundle import BOM, ENVELOPE, MANIFEST, Bundle, open_bundle
from jetson_runtime.errors import AdmissionError, BundleError, DigestError, InputError, ReleaseError, SignatureError
from jetson_runtime.files import canonical_json
from jetson_runtime.manifest import Manifest
from jetson_runtime.profile import LatencyProfile, Row


@pytest.fixture(scope="module")
def pristine(tiny_bundle: Callable[[str, str], Path]) -> Path:
    return tiny_bundle("dinov2-llama", "fp32")


@pytest.fixture
def bundle(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "bundle"))


def row(**changes: object) -> Row:
    values = {"phase": "decode", "scope": "exit", "name": "", "layer": 2, "tokens": 1, "state": "warm", "count": 9,
              "p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0}  # fmt: skip
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def profile_of(bundle: Bundle) -> LatencyProfile:
    return LatencyProfile((row(),), bundle.manifest.engines_digest, "onnxruntime", {"cpu": "made up"})


def test_a_manifest_survives_the_round_trip(bundle: Path) -> None:
    opened = open_bundle(bundle)
    again = Manifest.from_dict(json.loads(canonical_json(opened.manifest.to_dict())), "there")
    assert again == opened.manifest
    assert canonical_json(again.to_dict()) == (bundle / MANIFEST).read_text(encoding="utf-8")


def test_the_chain_reaches_every_exit_and_every_file_is_listed(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert [(s.first, s.last) for s in manifest.segments("vision")] == [(1, 2), (3, 3)]
    assert [(s.first, s.last) for s in manifest.segments("decoder")] == [(1, 2), (3, 4)]
    on_disk = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert on_disk == {*manifest.files, MANIFEST}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_bit_anywhere_is_detected(bundle: Path, data: st.DataObject) -> None:
    manifest = open_bundle(bundle).manifest
    path = bundle / data.draw(st.sampled_from(sorted(manifest.files)))
    original = path.read_bytes()
    position = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(changed)
    try:
        with pytest.raises(DigestError, match=path.name):
            open_bundle(bundle)
    finally:
        path.write_bytes(original)


def test_a_missing_a_truncated_and_a_linked_file_are_each_named(bundle: Path) -> None:
    path = bundle / "tokenizer/tokenizer.json"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(DigestError, match="not there"):
        open_bundle(bundle)
    path.write_bytes(data[:-1])
    with pytest.raises(DigestError, match="length"):
        open_bundle(bundle)
    path.unlink()
    (bundle / "elsewhere").write_bytes(data)
    path.symlink_to(bundle / "elsewhere")
    with pytest.raises(DigestError, match="symbolic link"):
        open_bundle(bundle)


def edit(bundle: Path, change: Callable[[dict], object]) -> None:
    value = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    change(value)
    (bundle / MANIFEST).write_text(canonical_json(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m.update(schema="holdfast/bundle/99"), "holdfast/bundle/1"),
        (lambda m: m.update(kind="other"), "kind 'other'"),
        (lambda m: m.pop("ladder"), "field 'ladder'"),
        (lambda m: m.update(extra=1), "unknown field 'extra'"),
        (lambda m: m["model"].pop("kv_capacity"), "field 'kv_capacity' is missing"),
        (lambda m: m["model"].update(vocabulary="many"), "'vocabulary' is 'many'"),
        (lambda m: m["ladder"][0].update(vision=1), "no vision segment ends at exit 1"),
        (lambda m: m["ladder"].reverse(), "not increasing"),
        (lambda m: m["engines"][0].update(first=2), "does not begin where the one before ends"),
        (lambda m: m["engines"][0].update(path="engines/none.onnx"), "not a listed file"),
        (lambda m: m["engines"].append(m["engines"][0]), "same name"),
        (lambda m: m["files"].update({"../x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"/x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"a//x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"a/../x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"./x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"a\\x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"c:x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({"a\0x": next(iter(m["files"].values()))}), "does not stay inside"),
        (lambda m: m["files"].update({MANIFEST: next(iter(m["files"].values()))}), "can't list itself"),
        (lambda m: m["files"].update({ENVELOPE: next(iter(m["files"].values()))}), "can't list itself"),
        (lambda m: next(iter(m["files"].values())).update(sha256="0" * 63), "not 64 hexadecimal digits"),
        (lambda m: next(iter(m["files"].values())).update(size_bytes=-1), "'size_bytes' is -1"),
        (lambda m: next(iter(m["files"].values())).update(size_bytes=True), "'size_bytes' is True, not int"),
        (lambda m: m.update(release=-1), "release -1"),
        (lambda m: m.update(release="1"), "'release' is not of type int"),
        (lambda m: m.update(files=[]), "'files' is not of type dict"),
        (lambda m: m["target"].pop("name"), "the target has no name"),
        (lambda m: m["model"].update(kv_capacity=-1), "'kv_capacity' is -1"),
        (lambda m: m["ladder"][0].update(vision="2"), "'vision' is '2', not int"),
        (lambda m: m["ladder"][0].update(more=1), "unknown field 'more'"),
        (lambda m: m.update(ladder=[]), "no depth"),
    ],
)
def test_a_manifest_that_does_not_hold_together_is_refused(
    bundle: Path, change: Callable[[dict], object], words: str
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=words):
        open_bundle(bundle)


def test_all_mistakes_of_a_manifest_are_told_at_once(bundle: Path) -> None:
    edit(bundle, lambda m: (m.update(kind="other"), m["ladder"][0].update(vision=1)))
    with pytest.raises(BundleError, match=r"kind 'other'.*exit 1"):
        open_bundle(bundle)


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda c: st.lists(c) | st.dictionaries(
    st.sampled_from(["schema", "kind", "release", "precision", "model", "target", "ladder", "engines", "shared",
                     "files", "provenance", "admissions", "name", "path"]), c)))  # fmt: skip
def test_no_value_whatever_breaks_the_reader(value: object) -> None:
    if isinstance(value, dict):
        value["schema"] = "holdfast/bundle/1"
    with pytest.raises(BundleError):
        Manifest.from_dict(value, "there")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000])
def test_a_manifest_that_is_no_manifest(tmp_path: Path, content: str) -> None:
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(BundleError, match="manifest"):
        open_bundle(tmp_path)


def test_what_is_no_bundle_is_said_with_its_path(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(BundleError, match=f"{path.name} is not a bundle"):
            open_bundle(path)


def test_a_profile_is_added_and_changes_the_bundle_but_not_its_engines(bundle: Path) -> None:
    before = open_bundle(bundle)
    after = before.with_profile(profile_of(before), "here")
    assert after.profiles() == {"here": profile_of(before)}
    assert after.digest != before.digest
    assert after.manifest.engines_digest == before.manifest.engines_digest


@pytest.mark.parametrize(
    "changes", [{"p50_ms": 0.0}, {"p90_ms": 0.5}, {"p99_ms": float("inf")}, {"phase": "other"}, {"count": "x"}]
)
def test_a_profile_row_that_is_no_measurement_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    value = {"schema": "holdfast/profile/1", "engines_digest": "", "backend": "", "machine": {}}
    rows = [{**vars(row()), **changes}]
    (tmp_path / "profile.json").write_text(json.dumps({**value, "rows": rows}))
    with pytest.raises(InputError, match="not a latency profile"):
        LatencyProfile.read(tmp_path / "profile.json")


def admissions_of(bundle: Bundle, reason: str = "as good as full depth") -> dict:
    return Admissions(bundle.manifest.engines_digest, "", {}, {"d1": Verdict("admitted", reason)}).to_dict()


def test_admissions_are_added_with_their_report_and_replace_older_ones(bundle: Path) -> None:
    before = open_bundle(bundle)
    first = before.with_admissions({"count": 1}, admissions_of(before))
    second = first.with_admissions({"count": 2}, admissions_of(before, "still"))
    digest = second.manifest.engines_digest
    made = Admissions.from_dict(second.manifest.admissions, digest)
    assert made.admits("d1") and made.depths["d1"].reason == "still"
    assert json.loads(second.file(made.report).read_text()) == {"count": 2}
    assert [path.name for path in (bundle / "reports").iterdir()] == [Path(made.report).name]
    assert second.manifest.files[made.report].role == "report"
    assert digest == before.manifest.engines_digest


def test_admissions_of_other_engines_or_of_another_form_are_not_written(bundle: Path) -> None:
    before = open_bundle(bundle)
    for odd in ({**admissions_of(before), "engines_digest": "0" * 64}, {**admissions_of(before), "schema": "other"}):
        with pytest.raises(AdmissionError):
            before.with_admissions({"count": 1}, odd)
    assert open_bundle(bundle) == before


def test_a_bill_of_materials_is_added_and_replaced(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = open_bundle(bundle).with_bom({"version": 1})
    assert first.manifest.files[BOM].role == "bom"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # after the new file, before the manifest that names it
        patch.setattr("jetson_runtime.bundle._record", killed)
        with pytest.raises(KeyboardInterrupt):
            first.with_bom({"version": 2})
    assert BOM not in open_bundle(bundle).manifest.files and (bundle / BOM).exists()
    second = open_bundle(bundle).with_bom({"version": 2})
    assert json.loads(second.file(BOM).read_text()) == {"version": 2}


def test_nothing_is_added_to_a_signed_bundle(bundle: Path) -> None:
    opened = open_bundle(signed(bundle, 1))
    for add in (
        lambda: opened.with_profile(profile_of(opened), "here"),
        lambda: opened.with_admissions({}, admissions_of(opened)),
        lambda: opened.with_bom({}),
    ):
        with pytest.raises(SignatureError, match=r"is signed and can't be changed[^$]*then 'engine-build sign'"):
            add()
    assert open_bundle(bundle, trust(1)).manifest == opened.manifest


def test_a_manifest_that_could_not_be_read_again_is_not_written(bundle: Path) -> None:
    before = open_bundle(bundle)
    deep: object = 0
    for _ in range(40):
        deep = [deep]
    with pytest.raises(BundleError, match="nested too deeply"):
        before.with_admissions({}, {**admissions_of(before), "basis": {"deep": deep}})
    assert open_bundle(bundle) == before


def test_an_older_release_is_refused(bundle: Path) -> None:
    assert open_bundle(bundle, minimum_release=1).manifest.release == 1
    with pytest.raises(ReleaseError, match="found: release 1\n  expected: release 2 or newer"):
        open_bundle(bundle, minimum_release=2)


def test_the_signature_is_judged_first_then_the_manifest_the_release_the_tree_and_the_digests(bundle: Path) -> None:
    signed(bundle, 1)
    (bundle / "engines/lm_head.onnx").write_bytes(bytes((bundle / "engines/lm_head.onnx").stat().st_size))
    with pytest.raises(DigestError, match="not the file that was built"):
        open_bundle(bundle, trust(1))
    (bundle / "extra").write_bytes(b"")
    with pytest.raises(BundleError, match="does not list"):
        open_bundle(bundle, trust(1))
    with pytest.raises(ReleaseError):
        open_bundle(bundle, trust(1), minimum_release=2)
    with pytest.raises(SignatureError, match="not accepted"):
        open_bundle(bundle, trust(2), minimum_release=2)
    edit(bundle, lambda m: m.update(kind="other"))
    with pytest.raises(SignatureError, match="signs another manifest"):
        open_bundle(bundle, trust(1), minimum_release=2)
