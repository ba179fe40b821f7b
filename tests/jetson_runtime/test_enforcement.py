"""Only what the gate admitted is ever used: by the policy, by a pinned depth, by a pinned schedule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from admitting import WORSE, verdicts, with_verdicts
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import made_up_profile
from signing import signed
from tiny import build_config

import jetson_runtime
from engine_builder.export import export
from jetson_runtime import Budget, Request, Runtime
from jetson_runtime.bundle import ENVELOPE, MANIFEST, open_bundle
from jetson_runtime.cli import main
from jetson_runtime.enforcement import Enforcement
from jetson_runtime.errors import AdmissionError, BudgetError, HoldfastError
from jetson_runtime.files import sha256_file, write_json

LADDER = [
    {"name": "d1", "vision": 2, "decoder": 2},
    {"name": "d2", "vision": 3, "decoder": 2},
    {"name": "d3", "vision": 3, "decoder": 4},
]


@pytest.fixture(scope="module")
def bare(tiny_llava: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no gate has seen."""
    out = tmp_path_factory.mktemp("enforcement") / "bundle"
    export(tiny_llava("clip-llama"), build_config(precision="fp32", target="cpu", ladder=LADDER), out)
    return out


@pytest.fixture(scope="module")
def mixed(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """d1 is rejected; of the schedules two are admitted."""
    return with_verdicts(bare, tmp_path_factory.mktemp("mixed") / "bundle", "d2", "d3", "d3>d2@4", "d3>d2@prefill")


@pytest.fixture(scope="module")
def profile(bare: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("profile") / "profile.json"
    write_json(file, made_up_profile(open_bundle(bare)).to_dict())
    return file


@pytest.fixture(scope="module", params=["onnxruntime", "simulated"])
def runtime(request: pytest.FixtureRequest, mixed: Path, profile: Path) -> Runtime:
    return jetson_runtime.load(mixed, backend=request.param, profile=profile)


def test_a_bundle_that_no_gate_has_seen_is_not_loaded(bare: Path) -> None:
    with pytest.raises(AdmissionError, match="no depth that may be used") as caught:
        jetson_runtime.load(bare)
    assert caught.value.exit_code == 3
    for text in ("d1 not tested, d2 not tested, d3 not tested", "refusal-check gate", "--allow-unadmitted"):
        assert text in str(caught.value)
    with jetson_runtime.load(bare, allow_unadmitted=True) as runtime:
        assert runtime.invoke(Request("hello", max_tokens=1)).depth.name == "d3"


def test_a_pinned_depth_or_schedule_must_be_admitted(runtime: Runtime) -> None:
    assert runtime.invoke(Request("hello", max_tokens=2, depth="d2")).depth.name == "d2"
    assert str(runtime.invoke(Request("hello", max_tokens=2, schedule="d3>d2@4")).schedule) == "d3>d2@4"
    with pytest.raises(AdmissionError, match="the depth d1 is not admitted") as caught:
        runtime.invoke(Request("hello", depth="d1"))
    assert (caught.value.found, caught.value.expected) == (f"rejected: {WORSE}", "an admitted depth: d2, d3")
    with pytest.raises(AdmissionError, match="the schedule d3>d1@4 is not admitted") as caught:
        runtime.invoke(Request("hello", schedule="d3>d1@4"), Budget(answer_ms=1e6))
    assert caught.value.found == "not tested: the gate says nothing about it"
    assert caught.value.expected == "an admitted schedule: d3>d2@prefill, d3>d2@4"


def test_the_policy_does_not_know_a_depth_that_is_not_admitted(mixed: Path, profile: Path) -> None:
    runtime = jetson_runtime.load(mixed, backend="simulated", profile=profile)
    image = Request("hello", image=_picture(), max_tokens=1)
    # With a picture d1 takes 20 + 2 ms, d2 30 + 2 ms and d3 30 + 4 ms.
    assert runtime.invoke(image, Budget(answer_ms=33)).depth.name == "d2"
    assert runtime.invoke(image).depth.name == "d3"
    with pytest.raises(BudgetError, match="not even d2") as caught:
        runtime.invoke(image, Budget(answer_ms=25))
    assert caught.value.predicted_ms == pytest.approx(32.0)
    anything = jetson_runtime.load(mixed, backend="simulated", profile=profile, allow_unadmitted=True)
    assert anything.invoke(image, Budget(answer_ms=25)).depth.name == "d1"


def _picture() -> bytes:
    from engine_builder.reference import drawn_picture

    return drawn_picture()


def test_without_a_budget_the_deepest_admitted_depth_answers(bare: Path, tmp_path: Path) -> None:
    runtime = jetson_runtime.load(with_verdicts(bare, tmp_path / "bundle", "d1", "d2"))
    assert runtime.invoke(Request("hello", max_tokens=1)).depth.name == "d2"


def test_admissions_of_other_engines_are_void(mixed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(mixed, tmp_path / "bundle"))
    value = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    value["admissions"]["engines_digest"] = "0" * 64
    write_json(copy / MANIFEST, value)
    with pytest.raises(AdmissionError, match="measured on other engines"):
        jetson_runtime.load(copy)
    with jetson_runtime.load(copy, allow_unadmitted=True) as runtime:
        facts = runtime.describe()["admissions"]
    assert facts["void"] == "the admissions were measured on other engines"
    assert {verdict["verdict"] for verdict in facts["depths"].values()} == {"not tested"}


def _file(name: str) -> Callable[[Path, dict[str, Any]], None]:
    """Change a file of the bundle, as an edit by hand would, with its record in the manifest."""

    def change(folder: Path, manifest: dict[str, Any]) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes() + b"\n")
        record = manifest["files"][name]
        record |= {"size_bytes": path.stat().st_size, "sha256": sha256_file(path)}

    return change


def _entry(part: str, *path: str | int, value: Any) -> Callable[[Path, dict[str, Any]], None]:
    def change(_: Path, manifest: dict[str, Any]) -> None:
        *way, last = path
        reduce(lambda inner, key: inner[key], way, manifest[part])[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        (_file("tokenizer/tokenizer.json"), False),
        (_file("tokenizer/chat_template.jinja"), False),
        (_file("preprocessing.json"), False),
        (_entry("ladder", 0, "name", value="shallow"), False),
        (_entry("model", "stop_token_ids", value=[1]), False),
        (_entry("engines", 0, "outputs", 0, "name", value="other"), False),
        (_entry("model", "version", value="2.0"), True),
        (_entry("provenance", "note", value="signed off"), True),
    ],
    ids=["tokenizer", "chat template", "preprocessing", "ladder", "stop tokens", "wiring", "version", "provenance"],
)
def test_admissions_hold_for_all_that_decides_an_answer(
    mixed: Path, tmp_path: Path, change: Callable[[Path, dict[str, Any]], None], holds: bool
) -> None:
    copy = Path(shutil.copytree(mixed, tmp_path / "bundle"))
    value = json.loads((copy / MANIFEST).read_text(encoding="utf-8"))
    change(copy, value)
    write_json(copy / MANIFEST, value)
    bundle = open_bundle(copy)
    if holds:
        assert Enforcement.of(bundle, allow_unadmitted=False).depths()
    else:
        with pytest.raises(AdmissionError, match="measured on other engines"):
            Enforcement.of(bundle, allow_unadmitted=False)


def test_a_signed_bundle_is_never_loaded_with_what_is_not_admitted(mixed: Path, tmp_path: Path) -> None:
    copy = signed(Path(shutil.copytree(mixed, tmp_path / "bundle")), 1)
    with pytest.raises(AdmissionError, match="is signed: only what is admitted may be used") as caught:
        jetson_runtime.load(copy, allow_unadmitted=True)
    assert ENVELOPE in str(caught.value.remedy)
    with jetson_runtime.load(copy) as runtime:
        assert runtime.describe()["allow_unadmitted"] is False


def test_describe_shows_every_verdict(mixed: Path, bare: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(mixed), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    admissions = facts["admissions"]
    assert facts["allow_unadmitted"] is False
    assert admissions["depths"]["d1"] == {"verdict": "rejected", "reason": WORSE}
    admitted = {name for name, verdict in admissions["schedules"].items() if verdict["verdict"] == "admitted"}
    assert (admitted, len(admissions["schedules"])) == ({"d3>d2@4", "d3>d2@prefill"}, 15)
    assert main(["describe", str(mixed)]) == 0
    said = capsys.readouterr().out
    assert "d1 rejected, d2 admitted, d3 admitted; 2 of 15 schedules admitted: d3>d2@prefill, d3>d2@4" in said
    assert main(["describe", str(bare)]) == 3
    assert "--allow-unadmitted" in capsys.readouterr().err
    assert main(["describe", str(bare), "--allow-unadmitted", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["allow_unadmitted"] is True


def test_the_command_line_pins_only_what_is_admitted(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["ask", str(mixed), "--prompt", "hello", "--max-tokens", "1"]
    assert main([*words, "--schedule", "d3>d2@4"]) == 0
    assert main([*words, "--depth", "d1"]) == 3
    assert f"found: rejected: {WORSE}" in capsys.readouterr().err
    assert main([*words, "--depth", "d1", "--allow-unadmitted"]) == 0


@pytest.fixture(scope="module")
def simulated(bare: Path, profile: Path) -> Runtime:
    return jetson_runtime.load(bare, backend="simulated", profile=profile, allow_unadmitted=True)


POINTS = ("d1", "d2", "d3", "d3>d2@4", "d3>d1@4", "d2>d1@vision", "d3>d2@prefill", "d3>d1@1")


@settings(deadline=None, max_examples=60)
@given(
    admitted=st.sets(st.sampled_from(POINTS)),
    pinned=st.none() | st.sampled_from(POINTS),
    answer_ms=st.none() | st.floats(0.5, 80),
    image=st.booleans(),
    tokens=st.integers(1, 8),
)
def test_no_token_comes_from_what_is_not_admitted(
    admitted: set[str], pinned: str | None, answer_ms: float | None, image: bool, tokens: int, simulated: Runtime
) -> None:
    bundle = simulated.bundle
    ladder = bundle.manifest.ladder
    try:
        simulated.enforcement = Enforcement(ladder, verdicts(ladder, admitted), allow_unadmitted=False)
    except AdmissionError:
        assert not admitted & {"d1", "d2", "d3"}
        return
    names: dict[str, Any] = {} if pinned is None else {"schedule" if ">" in pinned else "depth": pinned}
    request = Request("hello", image=_picture() if image else None, max_tokens=tokens, **names)
    budget = None if answer_ms is None else Budget(answer_ms=answer_ms)
    streamed: list[str] = []
    try:
        answer = simulated.invoke(request, budget, on_token=lambda token: streamed.append(token.depth))
    except HoldfastError as error:
        assert streamed == []
        assert isinstance(error, AdmissionError if pinned and pinned not in admitted else BudgetError)
        return
    point = answer.depth if answer.schedule is None else answer.schedule
    assert point.name in admitted
    assert pinned in (None, point.name)
    assert streamed == [point.depth_at(given).name for given in range(len(answer.tokens))]


def test_a_verdict_on_a_schedule_is_none_on_a_depth_of_that_name(bare: Path) -> None:
    manifest = open_bundle(bare).manifest
    made = verdicts(manifest.ladder, ["d2", "d3>d2@4"])
    swapped = replace(made, depths=made.schedules, schedules=made.depths)
    with pytest.raises(AdmissionError, match="no depth"):
        Enforcement(manifest.ladder, swapped, allow_unadmitted=False)
    rule = Enforcement(manifest.ladder, swapped, allow_unadmitted=True)
    assert {rule.verdict(each).verdict for each in (*manifest.ladder, *manifest.ladder.schedules())} == {"not tested"}
