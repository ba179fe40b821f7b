"""engine-calibrate as it is run: a real measurement of a tiny bundle, what it prints, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from pathlib import Path
from xml.etree import ElementTree

import pytest
from signing import signed

from calibration.bench import Bench, Cell, Stopwatch
from calibration.cli import main
from calibration.latency import default_tokens
from jetson_runtime.backends import open_backend
from jetson_runtime.backends.onnxruntime import OnnxRuntimeBackend
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.files import write_json
from jetson_runtime.profile import LatencyProfile

QUICK = ["--count", "2", "--cold-count", "1", "--pause-ms", "0", "--tokens", "4,8"]


def state_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_every_engine_and_exit_is_measured_warm_and_cold(bundle: Bundle) -> None:
    assert main(["latency", str(bundle.path), *QUICK]) == 0
    after = open_bundle(bundle.path)
    profile = after.profiles()[after.manifest.target["name"]]
    manifest = bundle.manifest
    vision, decoder = manifest.segments("vision"), manifest.segments("decoder")
    seen = manifest.model.vision_tokens
    expected = {("vision", "engine", engine.name, engine.last, seen) for engine in (*vision, manifest.head("vision"))}
    expected |= {("vision", "exit", "", segment.last, seen) for segment in vision}
    for phase, tokens in (("prefill", 4), ("prefill", 8), ("decode", 1)):
        expected |= {(phase, "engine", engine.name, engine.last, tokens) for engine in (manifest.embedding, *decoder)}
        expected |= {(phase, "exit", "", segment.last, tokens) for segment in decoder}
    expected.add(("decode", "engine", manifest.head("decoder").name, 0, 1))
    assert {row.key for row in profile.rows} == {(*key, state) for key in expected for state in ("warm", "cold")}
    assert {(row.state, row.count) for row in profile.rows} == {("warm", 2), ("cold", 1)}
    assert profile.engines_digest == after.manifest.engines_digest
    assert profile.backend == "onnxruntime"
    assert profile.machine["cpu"]["cores_usable"] >= 1
    assert profile.method["pause_ms"] == 0


def test_an_exit_runs_its_own_segments_and_no_deeper_ones(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(bundle, open_backend("onnxruntime", bundle, None, 1))
    ran: list[object] = []
    inner = OnnxRuntimeBackend.enqueue
    monkeypatch.setattr(OnnxRuntimeBackend, "enqueue", lambda *run: (ran.append(run), inner(*run)))
    counts = []
    for exit in bench.exits["decoder"]:
        ran.clear()
        ((key, ms),) = bench.warm(Cell("prefill", 4, exit))
        assert key == ("prefill", "exit", "", exit, 4)
        assert ms > 0
        counts.append(len(ran))
    assert counts == [2 + segments for segments in range(1, len(counts) + 1)], "embedding, segments, head"


def test_an_engines_time_is_its_own_and_a_wait_stands_on_either_side() -> None:
    class Queue:
        """A backend whose engines take their time only when they are waited for."""

        name, clock, pending = "queue", 0.0, 0.0

        def enqueue(self, engine: float, *_: object) -> None:
            self.pending += engine

        def wait(self) -> None:
            self.clock, self.pending = self.clock + self.pending, 0.0

        def now_ms(self) -> float:
            return self.clock

    watch = Stopwatch(Queue())  # type: ignore[arg-type]
    watch.enqueue(("before", 7.0), {}, {})
    watch.laps = []
    watch.enqueue(("first", 3.0), {}, {})
    watch.enqueue(("second", 5.0), {}, {})
    assert watch.laps == [("first", 3.0), ("second", 5.0)]


def test_the_default_prompt_lengths_fit_the_model(bundle: Bundle) -> None:
    model = bundle.manifest.model
    tokens = default_tokens(model)
    assert list(tokens) == sorted(set(tokens))
    assert model.image_tokens < tokens[-1] <= model.kv_capacity


def test_out_leaves_the_bundle_alone_unless_a_name_is_given(bundle: Bundle, tmp_path: Path) -> None:
    before = state_of(bundle.path)
    out = tmp_path / "new" / "profile.json"
    assert main(["latency", str(bundle.path), *QUICK, "--out", str(out)]) == 0
    assert state_of(bundle.path) == before
    profile = LatencyProfile.read(out)
    assert main(["latency", str(bundle.path), *QUICK, "--out", str(out), "--name", "15W"]) == 0
    assert open_bundle(bundle.path).profiles()["15W"] == LatencyProfile.read(out) != profile


def test_json_and_picture(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "profile.svg"
    assert main(["latency", str(bundle.path), *QUICK, "--json", "--picture", str(picture)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert [item["name"] for item in value["depths"]] == ["d1", "d2"] * 2
    assert value["profile"]["schema"] == "holdfast/profile/1"
    text = " ".join(ElementTree.parse(picture).getroot().itertext())
    for part in ("Time to first token", "Time per further token", "milliseconds", "d1", "d2"):
        assert part in text


def test_the_same_profile_gives_the_same_picture(handmade: LatencyProfile, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from calibration.picture import draw

    for name in ("a.svg", "b.svg"):
        draw(handmade, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "made up" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_an_interrupt_leaves_the_bundle_as_it_was(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = state_of(bundle.path)
    monkeypatch.setattr(Bench, "cold", interrupted)
    assert main(["latency", str(bundle.path), *QUICK]) == 130
    assert state_of(bundle.path) == before


def test_an_interrupt_while_writing_waits_for_the_manifest(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Bundle.with_profile

    def interrupted(self: Bundle, profile: LatencyProfile, name: str) -> Bundle:
        os.kill(os.getpid(), signal.SIGINT)
        return write(self, profile, name)

    monkeypatch.setattr(Bundle, "with_profile", interrupted)
    assert main(["latency", str(bundle.path), *QUICK, "--name", "late"]) == 130
    assert "late" in open_bundle(bundle.path).profiles()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signed_bundle_is_refused_before_anything_is_measured(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signed(bundle.path, 1)
    monkeypatch.setattr("calibration.cli.measure", None)
    assert main(["latency", str(bundle.path), *QUICK]) == 3
    assert "is signed and can't be changed" in capsys.readouterr().err


BAD = {
    "capacity": (["--tokens", "4,100000"], 2, "100000 tokens"),
    "one token": (["--tokens", "1"], 2, "2 to "),
    "count": (["--count", "0"], 2, "--count can't be used"),
    "cold count": (["--cold-count", "-1"], 2, "--cold-count can't be used"),
    "threads": (["--threads", "0"], 2, "--threads can't be used"),
    "seconds": (["--seconds", "nan"], 2, "--seconds can't be used"),
    "simulated": (["--backend", "simulated"], 2, "no times of its own"),
    "backend": (["--backend", "abacus"], 5, "no backend 'abacus'"),
    "name": (["--name", "../up"], 2, "--name can't be used"),
}


@pytest.mark.parametrize(("options", "code", "message"), BAD.values(), ids=BAD)
def test_what_can_not_be_measured_is_refused(
    options: list[str], code: int, message: str, bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state_of(bundle.path)
    assert main(["latency", str(bundle.path), *options]) == code
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert state_of(bundle.path) == before


@pytest.mark.parametrize("options", [["--tokens", "a,b"], ["--tokens", ""]])
def test_prompt_lengths_that_are_no_numbers(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["latency", "bundle", *options])
    assert ended.value.code == 2
    assert "whole numbers with commas" in capsys.readouterr().err


def test_no_bundle_and_a_damaged_one(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["latency", str(tmp_path)]) == 3
    assert "is not a bundle" in capsys.readouterr().err
    engine = bundle.file(bundle.manifest.embedding.path)
    engine.write_bytes(engine.read_bytes()[:-1] + b"!")
    assert main(["latency", str(bundle.path)]) == 3
    assert "not the file that was built" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--out", "--picture"])
def test_a_place_that_can_not_be_written_is_refused_before_measuring(
    option: str, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calibration.cli.measure", lambda *_: pytest.fail("it measured"))
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file" / "below", tmp_path):
        assert main(["latency", str(bundle.path), option, str(place)]) == 6
        assert "can't be written" in capsys.readouterr().err


def test_a_bundle_on_a_read_only_disk_is_refused_before_measuring(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("calibration.cli.measure", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert main(["latency", str(bundle.path)]) == 6
    assert "--out FILE" in capsys.readouterr().err


@pytest.fixture
def stored(handmade: LatencyProfile, tmp_path: Path) -> Path:
    write_json(tmp_path / "profile.json", handmade.to_dict())
    return tmp_path / "profile.json"


def test_show_prints_each_depth(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(stored)]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line.split() for line in lines if line.startswith(("d1", "d2"))]
    assert [line[:3] for line in table] == [["d1", "2", "2"], ["d2", "3", "4"]]
    assert table[0][3] == "4.2", "vision up to exit 2: 0.25 + 2 * 2"
    assert table[0][7:9] == ["2.62", "(10.50)"], "one token up to exit 2: 0.5 + 0.125 + 2, and four times that"
    assert table[0][9] == "381.0"


def test_show_predicts_and_says_which_depth_each_budget_gets(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ["--prompt-tokens", "8", "--image", "--max-tokens", "3", "--json"]
    assert main(["show", str(stored), *request, "--budgets", "1,110,1000"]) == 0
    prediction = json.loads(capsys.readouterr().out)["prediction"]
    # p99 is four times the sum: vision 4.25, prefill 1.5 + 8 * 2, and two steps of 2.625.
    assert prediction["depths"][0]["first_token_ms"] == 4 * (4.25 + 17.5)
    assert prediction["depths"][0]["answer_ms"] == 4 * (4.25 + 17.5 + 2 * 2.625)
    assert [item["depth"] for item in prediction["budgets"]] == [None, "d1", "d2"]
    assert main(["show", str(stored), *request[:-1], "--budgets", "1"]) == 0
    assert "none (107 ms too slow)" in capsys.readouterr().out


def test_show_reads_a_bundles_profile(
    bundle: Bundle, handmade: LatencyProfile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(bundle.path)]) == 2
    assert "engine-calibrate latency" in capsys.readouterr().err
    bundle = bundle.with_profile(handmade, "one")
    assert main(["show", str(bundle.path)]) == 0
    bundle.with_profile(handmade, "two")
    assert main(["show", str(bundle.path)]) == 2
    assert "one, two" in capsys.readouterr().err
    assert main(["show", str(bundle.path), "--name", "two"]) == 0
    assert main(["show", str(bundle.path), "--name", "three"]) == 2


REQUESTS = {
    "image alone": ["--image"],
    "budgets alone": ["--budgets", "100"],
    "shorter than its image": ["--prompt-tokens", "4", "--image"],
    "longer than the cache": ["--prompt-tokens", "9999"],
    "answer beyond the cache": ["--prompt-tokens", "8", "--max-tokens", "9999"],
    "no answer": ["--prompt-tokens", "8", "--max-tokens", "0"],
    "no time": ["--prompt-tokens", "8", "--max-tokens", "2", "--budgets", "0"],
}


@pytest.mark.parametrize("options", REQUESTS.values(), ids=REQUESTS)
def test_a_request_that_can_not_be_predicted(
    options: list[str], stored: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(stored), *options]) == 2
    assert capsys.readouterr().err.startswith("engine-calibrate: error:")


def test_a_file_that_names_no_depths_is_refused(
    handmade: LatencyProfile, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(tmp_path / "bare.json", {**handmade.to_dict(), "model": {}})
    assert main(["show", str(tmp_path / "bare.json")]) == 2
    assert "which depths" in capsys.readouterr().err
