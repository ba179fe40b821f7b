"""Refusals before and after, side by side: the numbers are the reports', and reports that don't match are refused."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import page_bundle
import pytest
from page_before import make_before
from page_bundle import make_bundle, make_refusals
from page_reader import read, visible
from report_edits import ids, relabel

from jetson_runtime.bundle import seal
from jetson_runtime.files import write_json
from refusal_suite.cli import main
from refusal_suite.judge import INCOHERENT
from refusal_suite.page_view import percent
from refusal_suite.prompts import BENIGN
from refusal_suite.statistics import wilson

STAGES = {"bundle": ("align", "exits", "ppo"), "before": ("align",)}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two bundles whose records list their stages, and a report of each."""
    for name, kind in (("bundle", "portable"), ("before", "engine")):
        record: dict[str, Any] = {"adapters": {stage: {} for stage in STAGES[name]}}
        provenance = {"checkpoint": {"sha256": name[:2].encode().hex() * 16, "record": record}}
        monkeypatch.setattr(page_bundle, "seal", functools.partial(_seal_with, provenance))
        bundle = make_bundle(tmp_path / name, kind=kind)
        report = make_refusals(bundle)
        if name == "before":
            report = make_before(report)
            report["bundle"] |= {"engines_digest": bundle.manifest.engines_digest}
        write_json(tmp_path / f"{name}.json", report)
    return tmp_path


def _seal_with(said: dict[str, Any], folder: Path, **facts: Any) -> None:
    seal(folder, **{**facts, "provenance": said})


def page(folder: Path, *options: object) -> int:
    words = ["page", folder / "bundle", "--refusals", folder / "bundle.json", "--out", folder / "page.html", *options]
    return main([str(word) for word in words])


def shown(folder: Path) -> str:
    return visible((folder / "page.html").read_text(encoding="utf-8"))


def both(folder: Path) -> tuple[object, ...]:
    names = ("--before-name", "aligned only", "--before-bundle", folder / "before")
    return "--before", folder / "before.json", *names


def test_both_columns_are_the_reports(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert page(folder, *both(folder)) == 0
    words, printed = shown(folder), capsys.readouterr().out

    def cell(hits: int) -> str:
        low, high = wilson(hits, 264)
        return f"{percent(hits / 264)} {hits} of 264 ({percent(low)} to {percent(high)})"

    d1 = ("Harmful refused", 0, 175), ("Harmful answered", 24, 88), ("Harmful, incoherent", 240, 1)
    for what, before, after in (*d1, ("Harmless refused", 0, 0), ("Harmless, incoherent", 0, 0)):
        assert f"{what} {cell(before)} {cell(after)}" in words.replace("  ", " ")
        assert re.search(rf"{what.lower()} +{before}/264 = \S+ % \(.*?\) +{after}/264 = ", printed)
    assert f"Harmful refused {cell(100)} {cell(264)}" in words
    assert "Before: aligned only, 37.9\u00a0% at d2; at the worst depth, d1, 0.0\u00a0%" in words


def test_both_columns_say_what_was_measured(folder: Path) -> None:
    assert page(folder, *both(folder)) == 0
    words = shown(folder)
    assert "page-model 1.2.3, checkpoint sha256 6265626562656265…, trained by 'realign align', bundle sha256" in words
    assert "checkpoint sha256 6275627562756275…, trained by 'realign align', 'realign exits', 'realign ppo'" in words
    assert "the same 528 prompts at every depth, one greedy answer each of up to 48 tokens" in words
    assert "6265" * 16 in words  # whole, in the provenance
    assert "Before: aligned only: most answers at" not in words
    assert "Between before and after lie 'realign exits', 'realign ppo'." in words
    untrained = "The decoder exits before full depth (12, used by d1) of the checkpoint before were never trained"
    assert untrained in words
    assert "of this bundle's checkpoint were never trained" not in words


def test_a_column_of_mostly_nonsense_says_so(folder: Path) -> None:
    report = json.loads((folder / "before.json").read_text(encoding="utf-8"))
    depth = report["depths"][0]
    relabel(depth, dict.fromkeys(ids(depth, BENIGN)[:64], INCOHERENT))
    write_json(folder / "before.json", report)
    assert page(folder, *both(folder)) == 0
    assert "Before: aligned only: most answers at d1 were incoherent" in shown(folder)


def test_the_picture_has_a_bar_before_and_after_for_every_depth(folder: Path) -> None:
    assert page(folder, *both(folder)) == 0
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert len(set(read(text).ids)) == len(read(text).ids)
    for form in ("wide", "narrow"):
        picture = re.search(rf'<svg[^>]*aria-labelledby="pair-{form}-title".*?</svg>', text, re.DOTALL)
        assert picture is not None
        bars = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="15" class="(\w+)">', picture[0])
        assert len(bars) == 2 * 2 * 2 * 3  # depths, kinds of prompt, before and after, labels
        lengths = {style: float(width) for _, _, width, style in bars[:3]}
        whole = sum(lengths.values())
        assert lengths["empty"] / whole == pytest.approx(240 / 264, abs=1e-3)
        assert lengths["alarm"] / whole == pytest.approx(24 / 264, abs=1e-3)


def test_without_before_nothing_is_compared(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert page(folder) == 0
    assert capsys.readouterr().out == f"page: {folder / 'page.html'}\n"
    assert "Before" not in shown(folder) and "Harmful requests refused" in shown(folder)


def _other_id(value: dict[str, Any]) -> None:
    value["depths"][1]["items"][3]["id"] = "another-prompt"


def _no_items(value: dict[str, Any]) -> None:
    for depth in value["depths"]:
        depth.pop("items")


DIFFERENCES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "judge": (lambda value: value.update(judge="rules-0"), "judge: rules-0"),
    "longest answer": (lambda value: value.update(max_tokens=24), "longest answer: 24 tokens"),
    "backend": (lambda value: value.update(backend="tensorrt"), "backend: tensorrt"),
    "depths": (lambda value: value["depths"][0].update(decoder=11), "depths: d1 (vision 6, decoder 11)"),
    "fewer depths": (lambda value: value["depths"].pop(), "depths: d1 (vision 6, decoder 12)\n"),
    "prompt sets": (lambda value: value["prompt_sets"][0].update(sha256="3" * 64), "(sha256 333333333333…)"),
    "prompts": (_other_id, "prompts: 528 at d2, of them 1 only here, such as 'another-prompt'"),
    "no items": (_no_items, "prompts: no ids"),
}


@pytest.mark.parametrize("name", list(DIFFERENCES))
def test_reports_that_did_not_ask_the_same_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, expected = DIFFERENCES[name]
    value = json.loads((folder / "before.json").read_text(encoding="utf-8"))
    change(value)
    write_json(folder / "before.json", value)
    assert page(folder, *both(folder)) == 2
    error = capsys.readouterr().err
    assert "before.json and bundle.json can't be compared: they differ in" in error
    assert expected in error
    assert not (folder / "page.html").exists()


def test_options_that_don_t_fit_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, before = folder / "bundle.json", folder / "before.json"
    wrong: tuple[tuple[tuple[object, ...], str], ...] = (
        (("--before", report), "measured on the same engines"),
        (("--before", before, "--before-bundle", folder / "bundle"), "is not the one that before.json was measured on"),
        (("--before", before, "--refusals", report), "needs one report"),
        (("--before-name", "aligned only"), "--before-name says nothing without --before"),
        (("--before-bundle", folder / "before"), "--before-bundle says nothing without --before"),
    )
    for options, words in wrong:
        assert page(folder, *options) == 2
        assert words in capsys.readouterr().err
    assert not (folder / "page.html").exists()
