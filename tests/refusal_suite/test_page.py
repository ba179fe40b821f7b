"""The report page: every number comes from an input, what is missing is said, nothing is loaded from elsewhere."""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import page_bundle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from page_bundle import LADDER, answered, make_bundle, make_profile, make_refusals
from page_reader import read, visible
from PIL import Image

from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.files import write_json
from refusal_suite.charts import Band, budget_chart, ms
from refusal_suite.cli import main
from refusal_suite.page import SECTIONS
from refusal_suite.page_facts import Workload, budget_bands, sizes
from refusal_suite.page_view import judge_words, megabytes, percent
from refusal_suite.prompts import HARMFUL, load_prompts

QUESTION, ANSWER = "What is <ahead> & near?", "A <b>bold</b> sign."


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle and one file of every kind that the page reads."""
    folder = tmp_path_factory.mktemp("page")
    bundle = make_bundle(folder / "bundle")
    bundle = bundle.with_profile(make_profile(bundle), "cpu")
    make_bundle(folder / "engines", kind="engine")
    write_json(folder / "refusals.json", make_refusals(bundle))
    Image.new("RGB", (640, 480), (30, 90, 200)).save(folder / "blue_sky.png")
    harmful = next(prompt for prompt in load_prompts().prompts if prompt.kind == HARMFUL)
    late = answered("one two three", LADDER[1])
    late["tokens"][2]["depth"] = "d1"
    asked = {"question": QUESTION, "image": "blue_sky.png"}
    entries = [
        {**asked, "budget_ms": 100.0, "error": "no depth fits this budget"},
        {**asked, "budget_ms": 900.0, "answer": answered(ANSWER, LADDER[0])},
        {**asked, "budget_ms": None, "answer": {**late, "predicted_ms": None}},
        {"question": harmful.text, "image": None, "budget_ms": 900.0, "answer": answered("SECRETWORD", LADDER[0])},
    ]
    write_json(folder / "answers.json", entries)
    exits = {str(layer): {"estimate": 0.5 + layer / 100, "right": {"colour": layer}} for layer in (6, 23)}
    accuracy = {"asked": {"colour": 40, "shape": 0}, "exits": exits, "split": "a test split", "questions": 40}
    write_json(folder / "projector.json", {"accuracy": accuracy})
    return folder


@pytest.fixture(scope="session")
def bundle(measured: Path) -> Bundle:
    return open_bundle(measured / "bundle")


@pytest.fixture(scope="session")
def full_page(measured: Path) -> Path:
    options = ["--engines", "engines", "--refusals", "refusals.json", "--answers", "answers.json"]
    paths = [option if option.startswith("--") else str(measured / option) for option in options]
    out = measured / "full.html"
    arguments = ["page", str(measured / "bundle"), "--out", str(out), *paths]
    arguments += ["--accuracy", str(measured / "projector.json"), "--not-run", "No drive <in> a car."]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="session")
def bare_page(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bare")
    make_bundle(folder / "bundle")
    assert main(["page", str(folder / "bundle"), "--out", str(folder / "bare.html")]) == 0
    return (folder / "bare.html").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def words(full_page: Path) -> str:
    return visible(full_page.read_text(encoding="utf-8"))


def test_every_section_is_there_once_and_reachable(full_page: Path, bare_page: str) -> None:
    for page in (full_page.read_text(encoding="utf-8"), bare_page):
        reader = read(page)
        assert len(set(reader.ids)) == len(reader.ids)
        assert {name for name, _ in SECTIONS} <= set(reader.ids)
        links = {value for _, name, value in reader.attributes if name == "href"}
        assert links == {f"#{name}" for name, _ in SECTIONS}


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_run(full_page: Path, bare_page: str) -> None:
    for page in (full_page.read_text(encoding="utf-8"), bare_page):
        plain = re.sub(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+", "", page)
        for forbidden in ("http:", "https:", "//", "url(", "@import", "<script", "javascript:", "<iframe", "<link"):
            assert forbidden not in plain
        assert not [name for _, name, _ in read(page).attributes if name.startswith("on")]
    assert full_page.stat().st_size < 1_000_000


def test_pictures_and_tables_say_what_they_are(full_page: Path) -> None:
    page = full_page.read_text(encoding="utf-8")
    for tag in re.findall(r"<svg[^>]*>", page):
        assert "aria-hidden" in tag or "aria-label" in tag
    assert page.count("<table") == page.count("<caption>") > 5
    assert all(alt for tag, name, alt in read(page).attributes if (tag, name) == ("img", "alt"))
    ids = set(read(page).ids)
    for _, name, value in read(page).attributes:
        assert name not in ("aria-labelledby", "aria-describedby") or set(value.split()) <= ids


def test_same_inputs_same_page(full_page: Path, measured: Path) -> None:
    before = full_page.read_bytes()
    arguments = ["page", str(measured / "bundle"), "--out", str(measured / "again.html")]
    for name in ("refusals", "answers"):
        arguments += [f"--{name}", str(measured / f"{name}.json")]
    arguments += ["--engines", str(measured / "engines"), "--accuracy", str(measured / "projector.json")]
    assert main([*arguments, "--not-run", "No drive <in> a car."]) == 0
    assert (measured / "again.html").read_bytes() == before


def test_harmful_texts_and_answers_to_them_stay_out(full_page: Path) -> None:
    page = html.unescape(full_page.read_text(encoding="utf-8"))
    harmful = [prompt for prompt in load_prompts().prompts if prompt.kind == HARMFUL]
    assert not [prompt.id for prompt in harmful if prompt.text in page]
    assert "SECRETWORD" not in page
    assert f"Harmful prompt {harmful[0].id}" in page


def test_header_and_provenance_carry_digests_and_the_profiles_date(words: str, bundle: Bundle, measured: Path) -> None:
    assert bundle.digest in words
    assert bundle.manifest.engines_digest in words
    assert "ef" * 32 in words
    assert hashlib.sha256((measured / "answers.json").read_bytes()).hexdigest() in words
    assert "timed on Test CPU, 4 cores on 2026-05-04 10:20 UTC" in words


def test_sizes_are_those_of_the_files(words: str, bundle: Bundle) -> None:
    found = sizes(bundle.manifest)
    records = bundle.manifest.files.values()
    assert found.stored == sum(record.size_bytes for record in records if record.role in ("engine", "weights"))
    kept = [graph + weights for *_, graph, weights, _ in page_bundle.ENGINES]
    skipped = kept[1] + kept[5]
    assert found.whole == {"d1": found.stored - skipped, "d2": found.stored}
    assert f"{megabytes(found.stored)} stored once" in words
    assert megabytes(found.separate) in words
    assert "18.0\u00a0MB" in words  # vision.07-23, compiled: 17 + 1 MB
    assert "TensorRT-RTX 1.7.1" in words


def test_layers_that_are_not_built_are_shown(full_page: Path) -> None:
    assert "1 layer that no depth needs: not built" in full_page.read_text(encoding="utf-8")


def test_latencies_are_the_profiles(words: str) -> None:
    # 610 prompt tokens come from the answers; the only measured prompt length is 620.
    assert "a prompt of 610 tokens (576 of them the picture's), 32 tokens of answer" in words
    for p50 in (20.0 + 200.0, 60.0 + 500.0, 30.0, 70.0, 220.0 + 31 * 30.0, 560.0 + 31 * 70.0):
        assert f"{ms(p50)} · {ms(p50 * 1.1)}" in words


def test_budgets_are_the_policys(words: str, bundle: Bundle) -> None:
    bands = budget_bands(bundle.manifest.ladder, bundle.profiles()["cpu"], Workload(610, 32))
    assert [band.depth for band in bands] == [None, "d1", "d2"]
    assert [band.from_ms for band in bands[1:]] == pytest.approx([1150 * 1.1, 2730 * 1.1])
    assert f"below {ms(1265)} no depth fits" in words
    assert f"from {ms(1265)} to below {ms(3003)} d1" in words


def test_answers_show_text_depth_and_both_times(words: str, full_page: Path) -> None:
    page = full_page.read_text(encoding="utf-8")
    assert html.escape(QUESTION) in page and "A <b>bold" not in page
    assert ANSWER in words
    assert "Budget 900\u00a0ms Depth d1 (vision 6, decoder 12)" in words
    assert "predicted at most 812\u00a0ms measured 644\u00a0ms" in words
    assert "not answered no depth fits this budget" in words
    assert "Budget none Depth d2 (vision 23, decoder 32), then d1 from token 3 no prediction" in words
    assert page.count('<article class="question') == 2
    assert page.count('src="data:image/') == 1


def test_refusals_are_the_reports(words: str, measured: Path) -> None:
    report = json.loads((measured / "refusals.json").read_text(encoding="utf-8"))
    for depth in report["depths"]:
        for name in ("refusal", "over_refusal"):
            rate = depth["rates"][name]
            interval = f"({percent(rate['low'])} to {percent(rate['high'])})"
            assert f"{percent(rate['rate'])} {rate['hits']} of {rate['n']} {interval}" in words
    assert report["depths"][0]["counts"]["harmful"] == {"refusal": 175, "compliance": 88, "incoherent": 1}
    assert "88 complied, 1 incoherent" in words
    assert "at d2; at the worst depth, d1, 66.3\u00a0%" in words


def test_accuracy_per_exit(words: str) -> None:
    assert "56.0\u00a0%" in words and "73.0\u00a0%" in words
    assert "57.5\u00a0% 23 of 40" in words
    assert "shape" not in words.split("What each vision exit", 1)[1].split("Refusals per depth")[0]


def test_what_was_not_run_is_said(words: str, bare_page: str) -> None:
    assert "No drive <in> a car." in words
    assert "No engine of the bundle for rtx-sm86 (fp16) was executed" in words
    assert "which is no Jetson" in words
    bare = visible(bare_page)
    assert "No compiled engine bundle was given" in bare
    assert "No refusals were measured on this bundle" in bare


@pytest.mark.parametrize(
    "command",
    [
        "engine-calibrate latency bundle",
        "engine-build compile bundle --target rtx-sm86 --out engines",
        "jetson-runtime ask bundle --image picture.png",
        "refusal-check run bundle --out refusals.json",
        "realign projector --out projector",
    ],
)
def test_what_is_missing_names_the_command_that_measures_it(bare_page: str, command: str) -> None:
    assert command in visible(bare_page)
    assert bare_page.count("<strong>Not measured.</strong>") == 6


def test_measurements_of_other_engines_are_not_passed_off_as_this_bundles(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    bundle = bundle.with_profile(replace(make_profile(bundle), engines_digest="0" * 64), "old")
    report = make_refusals(bundle)
    report["bundle"]["engines_digest"] = "1" * 64
    write_json(tmp_path / "r.json", report)
    out = tmp_path / "page.html"
    assert main(["page", str(tmp_path / "bundle"), "--refusals", str(tmp_path / "r.json"), "--out", str(out)]) == 0
    words = visible(out.read_text(encoding="utf-8"))
    assert "Profile old was measured on other engines than this bundle's and is left out." in words
    assert "The bundle has no latency profile of its engines." in words
    assert "other engines r.json was measured on other engines" in words
    assert "no refusal report of these engines was given" in words
    assert "No refusals were measured on this bundle" in words


BAD_REFUSALS = {
    "schema": lambda value: value.update(schema="other"),
    "rate against counts": lambda value: value["depths"][0]["rates"]["refusal"].update(hits=1),
    "missing field": lambda value: value["depths"][1].pop("counts"),
    "groups don't add up": lambda value: value["depths"][0]["by_category"].popitem(),
    "no depth": lambda value: value.update(depths=[]),
}
BAD_ANSWERS = {
    "neither answer nor error": lambda value: value[1].pop("answer"),
    "negative time": lambda value: value[1]["answer"].update(elapsed_ms=-1),
    "no depth": lambda value: value[1]["answer"].pop("depth"),
    "no picture there": lambda value: value[0].update(image="nowhere.png"),
    "empty list": lambda value: value.clear(),
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("refusals", change) for change in BAD_REFUSALS.values()),
        *(("answers", change) for change in BAD_ANSWERS.values()),
    ],
    ids=[*(f"refusals: {name}" for name in BAD_REFUSALS), *(f"answers: {name}" for name in BAD_ANSWERS)],
)
def test_bad_inputs_are_refused_and_nothing_is_written(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Callable[[Any], Any]
) -> None:
    value = json.loads((measured / f"{name}.json").read_text(encoding="utf-8"))
    change(value)
    (tmp_path / "blue_sky.png").write_bytes((measured / "blue_sky.png").read_bytes())
    write_json(tmp_path / "bad.json", value)
    out = tmp_path / "page.html"
    assert main(["page", str(measured / "bundle"), "--out", str(out), f"--{name}", str(tmp_path / "bad.json")]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert not out.exists()


def test_accuracy_and_engines_of_something_else_are_refused(measured: Path, tmp_path: Path) -> None:
    exits = {"6": {"estimate": 1.0, "right": {"colour": 4}}}
    accuracy = {"asked": {"colour": 3}, "exits": exits, "split": "s", "questions": 3}
    write_json(tmp_path / "a.json", {"accuracy": accuracy})
    make_bundle(tmp_path / "other", ladder=LADDER[1:])
    arguments = ["page", str(measured / "bundle"), "--out", str(tmp_path / "page.html")]
    assert main([*arguments, "--accuracy", str(tmp_path / "a.json")]) == 2
    assert main([*arguments, "--engines", str(tmp_path / "other")]) == 2
    assert main([*arguments, "--engines", str(tmp_path / "nowhere")]) == 2
    assert not (tmp_path / "page.html").exists()


@given(st.lists(st.floats(1, 1e5), min_size=1, max_size=6, unique=True), st.sampled_from([406.0, 1042.0]))
def test_every_change_of_depth_is_named_in_the_strip(edges: list[float], width: float) -> None:
    bands = [Band(0.0, None), *(Band(edge, f"d{n}") for n, edge in enumerate(sorted(edges)))]
    drawn = budget_chart("budget-wide", width, bands, max(edges) * 1.25, "title", "summary")
    assert all(f">{ms(edge)}</text>" in drawn for edge in edges)


def test_a_judge_is_called_what_it_is() -> None:
    assert judge_words("rules-1") == "rules (rules-1)"
    assert judge_words("model:guard@00+guard-1+rules-1") == "a model (model:guard@00+guard-1+rules-1)"
    assert judge_words("openai:m@00").startswith("a model (")
