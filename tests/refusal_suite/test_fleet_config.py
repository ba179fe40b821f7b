"""`sweep.yaml`: what it may leave out, and that every mistake is reported at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jetson_runtime.errors import ConfigError
from refusal_suite.fleet.config import PromptSource, SweepConfig
from refusal_suite.prompts import BUILTIN


def read(tmp_path: Path, text: str) -> SweepConfig:
    path = tmp_path / "sweep.yaml"
    path.write_text(text, encoding="utf-8")
    return SweepConfig.read(path)


def test_only_bundles_are_needed(tmp_path: Path) -> None:
    config = read(tmp_path, "bundles: {a: build/a, b: /b}")

    assert config == SweepConfig(
        bundles={"a": tmp_path / "build/a", "b": Path("/b")},
        depths=None,
        schedules=(),
        prompts=(PromptSource(BUILTIN),),
        max_tokens=48,
        chunk=16,
        threads=1,
    )


def test_everything_can_be_said(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        """
        bundles: {fp32: a}
        depths: [d1, d2]
        schedules: all
        prompts:
          - {limit: 44, seed: 3}
          - {file: x.csv, format: plain, kind: harmful}
        max_tokens: 9
        chunk: 4
        threads: 2
        """,
    )

    assert (config.depths, config.schedules) == (("d1", "d2"), None)
    assert config.prompts == (
        PromptSource(BUILTIN, limit=44, seed=3),
        PromptSource(tmp_path / "x.csv", format="plain", kind="harmful"),
    )
    assert (config.max_tokens, config.chunk, config.threads) == (9, 4, 2)


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(
            tmp_path,
            """
            bundles: {run: a, 'x/y': b, .hidden: c, good: 7}
            depth: [d1]
            depths: d1
            schedules: [s, s]
            prompts: [{file: 3, limit: 0, kind: bad, format: odd, more: 1}]
            max_tokens: 0
            chunk: many
            threads: true
            """,
        )

    said = str(error.value)
    assert "has 15 mistakes" in said
    for mistake in (
        "unknown field 'depth'",
        "bundles: 'run' can't name a report",
        "bundles: 'x/y' can't name a report",
        "bundles: '.hidden' can't name a report",
        "bundles.good: 7 is not the path",
        "depths: 'd1' is neither 'all' nor a list",
        "schedules: 's' occurs twice",
        "prompts[0]: unknown field 'more'",
        "prompts[0].file: 3 is not a path",
        "prompts[0].limit: 0 is not",
        "prompts[0].kind: 'bad' is not one of harmful, benign",
        "prompts[0].format: 'odd' is not one of auto, ",
        "max_tokens: 0 is not",
        "chunk: 'many' is not",
        "threads: True is not",
    ):
        assert mistake in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "the file holds a list, not a mapping"),
        ("", "the file holds a NoneType, not a mapping"),
        ("bundles: [a", "is not YAML"),
        ("bundles: {}", "bundles: a mapping of names"),
        ("bundles: {a: b}\nprompts: []", "prompts: a list of sets is expected"),
        ("bundles: {a: b}\nprompts: [x.csv]", "prompts: a list of sets is expected"),
        ("bundles: {a: b}\ndepths: []", "nothing is asked for"),
    ],
)
def test_what_is_no_sweep(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        read(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        SweepConfig.read(tmp_path / "nothing.yaml")


def test_depths_may_be_left_to_schedules(tmp_path: Path) -> None:
    values: dict[str, Any] = {"bundles": {"a": "b"}, "depths": [], "schedules": ["d2>d1@4"]}

    assert SweepConfig.from_dict(values, tmp_path / "sweep.yaml").depths == ()
