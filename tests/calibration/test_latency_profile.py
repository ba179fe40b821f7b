"""The profile file, and predictions from it."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime.errors import InputError
from jetson_runtime.files import write_json
from jetson_runtime.ladder import Depth
from jetson_runtime.profile import SCHEMA, LatencyProfile, Row

ROW = Row("prefill", "exit", "", 4, 16, "warm", 30, 1.0, 2.0, 3.0)
POINTS = st.lists(
    st.tuples(st.integers(1, 600), st.floats(0.01, 1e5)), min_size=1, max_size=6, unique_by=lambda at: at[0]
)


def prefill(points: list[tuple[int, float]]) -> LatencyProfile:
    rows = [Row("prefill", "exit", "", 4, tokens, "warm", 5, ms, ms, ms) for tokens, ms in points]
    return LatencyProfile(tuple(rows), "digest", "onnxruntime", {})


@given(POINTS, st.integers(1, 1000), st.integers(1, 1000))
def test_a_longer_prompt_is_never_predicted_to_be_faster(points: list[tuple[int, float]], one: int, other: int) -> None:
    profile = prefill(points)
    assert profile.prefill_ms(4, min(one, other)) <= profile.prefill_ms(4, max(one, other))


@given(POINTS)
def test_a_prediction_is_never_below_what_was_measured(points: list[tuple[int, float]]) -> None:
    profile = prefill(points)
    assert all(profile.prefill_ms(4, tokens) >= ms for tokens, ms in points)


@given(POINTS)
def test_growing_measurements_are_hit_exactly(points: list[tuple[int, float]]) -> None:
    counts, times = (sorted(values) for values in zip(*points, strict=True))
    profile = prefill(list(zip(counts, times, strict=True)))
    assert [profile.prefill_ms(4, tokens) for tokens in counts] == times


def test_between_points_the_line_and_beyond_them_its_slope() -> None:
    profile = prefill([(16, 10.0), (64, 34.0), (128, 162.0)])
    assert [profile.prefill_ms(4, tokens) for tokens in (1, 16, 40, 64, 96, 128, 160)] == [
        10.0, 10.0, 22.0, 34.0, 98.0, 162.0, 226.0,
    ]  # fmt: skip


def test_an_answer_takes_vision_prefill_and_all_tokens_but_the_first() -> None:
    rows = (
        Row("vision", "exit", "", 6, 257, "warm", 9, 1.0, 2.0, 100.0),
        Row("prefill", "exit", "", 20, 16, "warm", 9, 1.0, 2.0, 30.0),
        Row("decode", "exit", "", 20, 1, "warm", 9, 1.0, 2.0, 7.0),
        Row("decode", "exit", "", 20, 1, "cold", 3, 500.0, 500.0, 500.0),
    )
    profile = LatencyProfile(rows, "digest", "onnxruntime", {})
    depth = Depth("d2", 6, 20)
    assert profile.answer_ms(depth, prompt_tokens=16, image=True, tokens=5) == 100 + 30 + 4 * 7
    assert profile.answer_ms(depth, prompt_tokens=16, image=False, tokens=1) == 30
    assert profile.phase_ms("decode", 20, quantile="p50") == 1.0
    assert profile.phase_ms("decode", 20, quantile="p50", state="cold") == 500.0


def test_an_exit_that_was_not_measured_is_named() -> None:
    with pytest.raises(InputError, match="warm prefill time for exit 5") as caught:
        prefill([(16, 1.0)]).prefill_ms(5, 16)
    assert "engine-calibrate latency" in str(caught.value)


def test_a_profile_comes_back_as_it_was_written(tmp_path: Path) -> None:
    profile = LatencyProfile((ROW,), "digest", "onnxruntime", {"cpu": {"cores": 2}}, {"id": "tiny"}, {"count": 30})
    write_json(tmp_path / "profile.json", profile.to_dict())
    assert LatencyProfile.read(tmp_path / "profile.json") == profile


def test_a_profile_without_the_optional_parts_is_read(tmp_path: Path) -> None:
    value = prefill([(16, 1.0)]).to_dict()
    write_json(tmp_path / "p.json", {name: part for name, part in value.items() if name not in ("model", "method")})
    assert LatencyProfile.read(tmp_path / "p.json").model == {}


BROKEN = {
    "phase": {"phase": "warmup"},
    "scope": {"scope": "tower"},
    "state": {"state": "tepid"},
    "order": {"p50_ms": 2.5},
    "zero": {"p50_ms": 0.0},
    "endless": {"p99_ms": 1e300},
    "text": {"p99_ms": "3"},
    "truth": {"p50_ms": True},
    "count": {"count": 0},
    "tokens": {"tokens": 1.5},
    "layer": {"layer": -1},
    "name": {"name": None},
    "unknown": {"p95_ms": 1.0},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_a_row_that_is_no_measurement_is_refused(changes: dict[str, object], tmp_path: Path) -> None:
    value = {**prefill([]).to_dict(), "rows": [{**asdict(ROW), **changes}]}
    write_json(tmp_path / "profile.json", value)
    with pytest.raises(InputError, match="not a latency profile"):
        LatencyProfile.read(tmp_path / "profile.json")


@pytest.mark.parametrize(
    "value",
    [[], 7, {}, {"schema": "holdfast/profile/0"}, {"schema": SCHEMA, "rows": [3]},
     {**prefill([]).to_dict(), "machine": "fast"}, {**prefill([]).to_dict(), "engines_digest": 5}],
    ids=["list", "number", "empty", "schema", "row", "machine", "digest"],
)  # fmt: skip
def test_another_file_is_refused(value: object, tmp_path: Path) -> None:
    write_json(tmp_path / "profile.json", value)
    with pytest.raises(InputError, match="not a latency profile"):
        LatencyProfile.read(tmp_path / "profile.json")


def test_two_rows_of_one_measurement_are_refused(tmp_path: Path) -> None:
    profile = replace(prefill([]), rows=(ROW, replace(ROW, p99_ms=9.0)))
    write_json(tmp_path / "profile.json", profile.to_dict())
    with pytest.raises(InputError, match="two rows"):
        LatencyProfile.read(tmp_path / "profile.json")
