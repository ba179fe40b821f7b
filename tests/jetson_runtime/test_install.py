"""Installing real signed bundles: what serves afterwards, and that nothing else ever does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from signing import release, trust, trust_file

import jetson_runtime
from jetson_runtime import install as installing
from jetson_runtime.admission import Admissions, Verdict
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.cli import main
from jetson_runtime.compatibility import Machine
from jetson_runtime.errors import (
    AdmissionError,
    BackendError,
    BundleError,
    DigestError,
    HoldfastError,
    InputError,
    ReleaseError,
    SignatureError,
    StorageError,
)
from jetson_runtime.health import answers_at_every_depth
from jetson_runtime.install import install
from jetson_runtime.install_log import read_log
from jetson_runtime.slots import LOG, STATE, Root, State, confirm, current, resolve

pytest.importorskip("onnxruntime")

TRUST = trust(1, 2)


def well(bundle: Bundle) -> None:
    """A health check that any bundle passes."""


@pytest.fixture(scope="module")
def tiny(tiny_bundle: Callable[[str, str], Path]) -> Path:
    return tiny_bundle("clip-llama", "fp32")


@pytest.fixture
def make(tiny: Path, tmp_path: Path) -> Callable[..., Path]:
    """`make(4)` is release 4, signed with key 1."""
    return lambda number, keys=(1,), name="", **more: release(
        tiny, tmp_path / f"release-{number}{name}", number, *keys, **more
    )


@pytest.fixture
def root(make: Callable[..., Path], tmp_path: Path) -> Root:
    """Release 4 serves, from slot a."""
    install(make(4), tmp_path / "root", TRUST, health=well)
    return Root(tmp_path / "root")


def serves(root: Root, number: int) -> None:
    """Release `number` serves, whole and trusted, and nothing is on trial."""
    state = root.state()
    assert state.serving is not None and state.trial is None and state.serving.release == number
    opened = open_bundle(resolve(root.path), TRUST)
    assert (opened.manifest.release, opened.digest) == (number, state.serving.bundle_digest)


def events(root: Root) -> list[Any]:
    log = read_log(root.path / LOG)
    assert log.broken_line is None
    return [event["event"] for event in log.events]


def test_releases_take_turns_in_the_two_slots(root: Root, make: Callable[..., Path]) -> None:
    serves(root, 4)
    for number, slot in ((5, "b"), (9, "a"), (10, "b")):
        state = install(make(number), root.path, TRUST, health=well)
        assert state == root.state() and state.serving is not None and state.serving.name == slot
        serves(root, number)
    assert sorted(path.name for path in (root.path / "slots").iterdir()) == ["a", "b"]
    assert events(root) == ["copying", "confirmed"] * 4


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The depths that the health check asks, and gets answers from."""
    depths: list[str | None] = []

    class Listening(jetson_runtime.Runtime):
        def invoke(self, request: jetson_runtime.Request, *rest: Any, **more: Any) -> jetson_runtime.Answer:
            answer = super().invoke(request, *rest, **more)
            depths.append(answer.depth.name)
            assert request.image is not None and request.temperature == 0
            return answer

    monkeypatch.setattr("jetson_runtime.health.Runtime", Listening)
    return depths


def test_the_health_check_asks_every_depth(root: Root, make: Callable[..., Path], asked: list[str]) -> None:
    install(make(5), root.path, TRUST)
    serves(root, 5)
    assert asked == ["d1", "d2"]


def test_an_engine_that_can_not_run_is_not_healthy(root: Root, make: Callable[..., Path]) -> None:
    """Signed and whole, and no graph: only running it shows."""
    bad = make(5, change=lambda folder: (folder / "engines/decoder.03-04.onnx").write_bytes(b"no graph"))
    with pytest.raises(BackendError, match="release 5 is not healthy on this machine; release 4 goes on serving"):
        install(bad, root.path, TRUST)
    serves(root, 4)
    assert not root.slot("b").exists()
    assert events(root)[-1] == "refused"


@pytest.mark.parametrize("error", [RuntimeError("engine"), BackendError("engine")])
def test_whatever_a_health_check_raises_the_old_one_serves(
    root: Root, make: Callable[..., Path], error: Exception
) -> None:
    def fails(bundle: Bundle) -> None:
        raise error

    with pytest.raises(BackendError, match="not healthy") as raised:
        install(make(5), root.path, TRUST, trial_starts=2, health=fails)
    assert raised.value.found is not None and "engine" in raised.value.found
    serves(root, 4)


def test_an_unhealthy_first_bundle_leaves_an_empty_root(make: Callable[..., Path], tmp_path: Path) -> None:
    def fails(bundle: Bundle) -> None:
        raise BackendError("engine")

    with pytest.raises(BackendError, match="nothing serves yet"):
        install(make(4), tmp_path / "root", TRUST, health=fails)
    with pytest.raises(InputError, match="nothing is installed"):
        resolve(tmp_path / "root")


def admitted(tiny: Path, **verdicts: str) -> dict[str, Any]:
    digest = open_bundle(tiny).manifest.engines_digest
    depths = {name: Verdict(verdict, "counted") for name, verdict in verdicts.items()}
    return Admissions(digest, "preprocessing.json", {}, depths).to_dict()


def test_only_admitted_depths_are_asked(tiny: Path, make: Callable[..., Path], asked: list[str]) -> None:
    answers_at_every_depth(open_bundle(make(5, admissions=admitted(tiny, d1="rejected", d2="admitted"))))
    assert asked == ["d2"]
    with pytest.raises(AdmissionError, match="no depth"):
        answers_at_every_depth(open_bundle(make(6, admissions=admitted(tiny, d1="rejected", d2="not tested"))))


def damaged(make: Callable[..., Path]) -> Path:
    bundle = make(5)
    file = bundle / "engines/lm_head.weights"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    return bundle


REFUSED: dict[str, tuple[Callable[[Callable[..., Path]], Path], type[HoldfastError], str]] = {
    "older": (lambda make: make(3), ReleaseError, "release 3"),
    "same number": (lambda make: make(4, name="x", precision="fp16"), ReleaseError, "another bundle with the number"),
    "unsigned": (lambda make: make(5, ()), SignatureError, "sign"),
    "by others": (lambda make: make(5, (3,)), SignatureError, "not in the trust file"),
    "damaged": (damaged, DigestError, "lm_head.weights"),
    "nothing": (lambda make: Path("nowhere"), BundleError, "is not a bundle"),
    "another machine": (
        lambda make: make(
            5, kind="engine", target={"name": "orin-agx", "compiler": "tensorrt", "compute_capability": "8.7"}
        ),
        BundleError,
        "target 'orin-agx'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_changes_nothing_and_is_logged(name: str, root: Root, make: Callable[..., Path]) -> None:
    prepare, error, words = REFUSED[name]
    source = prepare(make)
    before = (root.path / STATE).read_bytes()
    with pytest.raises(error, match=words):
        install(source, root.path, TRUST, health=well, machine=Machine({}))
    assert (root.path / STATE).read_bytes() == before
    serves(root, 4)
    last = read_log(root.path / LOG).events[-1]
    assert (last["event"], last["error"]) == ("refused", error.__name__)


def test_the_release_that_serves_can_be_installed_again_to_repair_it(root: Root, tmp_path: Path) -> None:
    file = root.slot("a") / "engines/lm_head.weights"
    file.write_bytes(b"rotten")
    install(tmp_path / "release-4", root.path, TRUST, health=well)
    serves(root, 4)
    assert current(root.path) == root.slot("b")


def test_removing_state_json_does_not_lower_the_counter(root: Root, make: Callable[..., Path]) -> None:
    (root.path / STATE).unlink()
    with pytest.raises(ReleaseError):
        install(make(3), root.path, TRUST, health=well)


def test_a_bad_copy_is_noticed(root: Root, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def flips(source: Path, destination: Path) -> None:
        data = bytearray(source.read_bytes())
        data[len(data) // 2] ^= 1
        destination.write_bytes(data)

    monkeypatch.setattr(installing, "copy_file", flips)
    with pytest.raises((BundleError, SignatureError)):
        install(make(5), root.path, TRUST, health=well)
    serves(root, 4)


def test_a_source_that_changes_under_way_is_noticed(
    root: Root, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, copy = make(5), installing.copy_file

    def disappears(source: Path, destination: Path) -> None:
        (bundle / "preprocessing.json").unlink(missing_ok=True)
        copy(source, destination)

    monkeypatch.setattr(installing, "copy_file", disappears)
    with pytest.raises(DigestError, match="changed while it was copied"):
        install(bundle, root.path, TRUST, health=well)
    serves(root, 4)
    assert [path.name for path in (root.path / "slots").iterdir()] == ["a"]


def test_a_bundle_that_does_not_fit_is_not_copied(
    root: Root, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(StorageError, match="does not fit") as raised:
        install(make(5), root.path, TRUST, health=well)
    assert "found: 1.0 MB free" in str(raised.value)
    serves(root, 4)


def test_a_trial_is_confirmed_or_goes_back_by_itself(root: Root, make: Callable[..., Path]) -> None:
    install(make(5), root.path, TRUST, trial_starts=1, health=well)
    with pytest.raises(InputError, match="release 5 is on trial"):
        install(make(6), root.path, TRUST, health=well)
    assert [open_bundle(resolve(root.path), TRUST).manifest.release for _ in range(2)] == [5, 4]
    serves(root, 4)
    install(make(5, name="again"), root.path, TRUST, trial_starts=1, health=well)
    resolve(root.path)
    confirm(root.path)
    serves(root, 5)


def test_the_counter_rises_when_a_trial_is_confirmed_not_before(root: Root, make: Callable[..., Path]) -> None:
    install(make(6), root.path, TRUST, trial_starts=1, health=well)
    resolve(root.path), resolve(root.path)
    install(make(5), root.path, TRUST, health=well)
    serves(root, 5)
    with pytest.raises(InputError, match="trial starts"):
        install(make(7), root.path, TRUST, trial_starts=-1, health=well)


def test_the_first_bundle_has_nothing_to_go_back_to(make: Callable[..., Path], tmp_path: Path) -> None:
    state = install(make(4), tmp_path / "root", TRUST, trial_starts=3, health=well)
    assert state == State(state.serving)
    serves(Root(tmp_path / "root"), 4)


def test_leftovers_of_a_killed_install_go(root: Root, make: Callable[..., Path]) -> None:
    half = root.path / "slots" / ".b.partial"
    half.mkdir()
    (half / "manifest.json").write_text("{")
    install(make(5), root.path, TRUST, health=well)
    assert not half.exists()
    serves(root, 5)


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_the_commands(make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, root = trust_file(tmp_path / "trust.json", 1), tmp_path / "root"
    assert run(capsys, "install", make(4), "--root", root, "--trust", keys)[0] == 0
    code, text = run(capsys, "install", make(5), "--root", root, "--trust", keys, "--trial", 2, "--json")
    assert code == 0 and json.loads(text)["starts_left"] == 2
    assert run(capsys, "resolve", "--root", root) == (0, f"{root / 'slots' / 'b'}\n")
    code, text = run(capsys, "status", "--root", root, "--trust", keys)
    assert code == 0
    for word in ("serves    release 4 in slot a", "on trial  release 5 in slot b", "1 starts left", "counter   4"):
        assert word in text
    assert run(capsys, "rollback", "--root", root)[0] == 0
    assert run(capsys, "confirm", "--root", root)[0] == 2
    code, text = run(capsys, "install", make(3), "--root", root, "--trust", keys)
    assert code == 3 and "release 3" in text
    code, text = run(capsys, "describe", root, "--trust", keys, "--json")
    assert code == 0 and json.loads(text)["release"] == 4


def test_status_ends_with_1_where_the_log_does_not_agree(root: Root, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = run(capsys, "status", "--root", root.path, "--json")
    assert code == 0 and json.loads(text)["log"]["agrees"]
    log = root.path / LOG
    whole = log.read_bytes()
    log.write_bytes(whole.replace(b'"copying"', b'"nothing"'))
    code, text = run(capsys, "status", "--root", root.path)
    assert code == 1 and "line 2 does not follow" in text
    log.write_bytes(whole)
    (root.path / STATE).unlink()
    code, text = run(capsys, "status", "--root", root.path)
    assert code == 1 and "release 4 was confirmed, and state.json does not know it" in text


def test_status_notices_an_older_signed_bundle_in_the_slot(
    root: Root, make: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(root.slot("a"))
    shutil.copytree(make(3), root.slot("a"))
    code, text = run(capsys, "status", "--root", root.path, "--trust", trust_file(tmp_path / "trust.json", 1))
    assert code == 3 and "not the bundle that was installed there" in text and "found: release 3" in text
