"""`refusal-check page`: one self-contained HTML page from a bundle and from what the other commands measured on it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jetson_runtime.bundle import MANIFEST, Bundle, open_bundle
from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import AdmissionError, InputError
from jetson_runtime.files import write_text
from jetson_runtime.manifest import Manifest
from jetson_runtime.profile import LatencyProfile
from jetson_runtime.trust import Trust
from refusal_suite import page_summary
from refusal_suite.admitted import admitted_report
from refusal_suite.charts import ms
from refusal_suite.page_accuracy import Accuracy, read_accuracy
from refusal_suite.page_facts import Workload
from refusal_suite.page_gate import gate_not_run, gate_view, shifts_view, status_view
from refusal_suite.page_inputs import Question, read_answers, read_engines
from refusal_suite.page_pair import Pair, compare, pair_table
from refusal_suite.page_pair_view import pair_digests, pair_not_run, pair_view
from refusal_suite.page_view import (
    accuracy_view,
    answers_view,
    bundles_view,
    engines_view,
    ladder_view,
    megabytes,
    percent,
    profile_view,
    refusals_view,
)
from refusal_suite.reports import RefusalReport, read_refusals

__all__ = ["Inputs", "add_page", "render"]

SECTIONS = (
    ("ladder", "Ladder"),
    ("sizes", "Engine sizes"),
    ("latency", "Latency"),
    ("budget", "Budget to depth"),
    ("answers", "Answers"),
    ("accuracy", "Vision exits"),
    ("gate", "Admission"),
    ("refusals", "Refusals"),
    ("not-run", "Not run"),
    ("provenance", "Provenance"),
)
QUESTION_TOKENS = 44  # what a picture prompt has besides the picture, where nothing says it better


@dataclass(frozen=True)
class Inputs:
    """Everything that the page is made of; `files` are the JSON files that it was read from.

    `admitted` is the report in the bundle; without another one its refusals are shown too.
    """

    bundle: Bundle
    engines: Sequence[Manifest] = ()
    refusals: Sequence[RefusalReport] = ()
    admitted: RefusalReport | None = None
    pair: Pair | None = None
    questions: Sequence[Question] = ()
    accuracy: Accuracy | None = None
    not_run: Sequence[str] = ()
    files: Sequence[Path] = ()
    answer_tokens: int = 32


def add_page(commands: Commands) -> None:
    """Add the subcommand `page`."""
    parser = subcommand(
        commands,
        "page",
        "write one self-contained HTML page about a bundle and what was measured on it",
        _page,
        examples="  refusal-check page build/demo/bundle --out report.html\n"
        "  refusal-check page build/demo/bundle --engines build/engines --refusals refusals.json \\\n"
        "      --answers answers.json --accuracy projector.json --not-run 'No drive test.' --out report.html\n"
        "  refusal-check page build/demo/bundle --refusals after.json --before before.json \\\n"
        "      --before-name 'aligned only' --before-bundle build/demo/bundle-aligned --out report.html",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a bundle directory; its profiles give the times")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page (HTML)")
    parser.add_argument(
        "--trust", type=Path, metavar="FILE", help="refuse the bundle unless keys of this trust file signed it"
    )
    parser.add_argument(
        "--engines", type=Path, action="append", default=[], metavar="DIR",
        help="a compiled bundle, of which only the manifest is read; may be repeated",
    )  # fmt: skip
    for name, words in (
        ("refusals", "a report of 'refusal-check run' (default: the one that the bundle was admitted by)"),
        ("answers", "a list of {question, image, budget_ms, answer or error}; answer as 'jetson-runtime ask --json'"),
    ):
        parser.add_argument(
            f"--{name}", type=Path, action="append", default=[], metavar="FILE", help=f"{words}; may be repeated"
        )
    _before_options(parser)
    parser.add_argument("--accuracy", type=Path, metavar="FILE", help="projector.json of 'realign projector'")
    parser.add_argument(
        "--not-run", action="append", default=[], metavar="TEXT", help="a thing that was not done; may be repeated"
    )
    parser.add_argument(
        "--answer-tokens", type=int, default=32, metavar="N", help="answer length that times are given for (default 32)"
    )


def _before_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--before", type=Path, metavar="FILE",
        help="a report of 'refusal-check run' on the model before a change: both columns, beside the one --refusals",
    )  # fmt: skip
    parser.add_argument(
        "--before-name", default="", metavar="TEXT", help="what --before measured, in a few words: 'aligned only'"
    )
    parser.add_argument(
        "--before-bundle", type=Path, metavar="DIR",
        help="the bundle of --before, of which only the manifest is read: it names the checkpoint",
    )  # fmt: skip


def _page(arguments: argparse.Namespace) -> int:
    if arguments.answer_tokens < 1:
        raise InputError("--answer-tokens can't be used", found=arguments.answer_tokens, expected="1 or more")
    bundle = open_bundle(arguments.bundle, None if arguments.trust is None else Trust.read(arguments.trust))
    admitted = _admitted(bundle)
    refusals = [read_refusals(path) for path in arguments.refusals] or [*([admitted] if admitted else [])]
    pair = _pair(arguments, bundle, refusals)
    reports = [*arguments.refusals, *([arguments.before] if pair else [])]
    inputs = Inputs(
        bundle=bundle,
        engines=[_same_model(bundle, path) for path in arguments.engines],
        refusals=refusals,
        admitted=admitted,
        pair=pair,
        questions=[question for path in arguments.answers for question in read_answers(path)],
        accuracy=None if arguments.accuracy is None else read_accuracy(arguments.accuracy),
        not_run=arguments.not_run,
        files=[*reports, *arguments.answers, *([arguments.accuracy] if arguments.accuracy else [])],
        answer_tokens=arguments.answer_tokens,
    )
    write_text(arguments.out, render(inputs))
    if pair is not None:
        print(f"{pair_table(pair)}\n")
    print(f"page: {arguments.out}")
    return 0


def _admitted(bundle: Bundle) -> RefusalReport | None:
    """The report in the bundle that it was admitted by; admissions that hold for other engines have none."""
    try:
        return admitted_report(bundle)[1] if bundle.manifest.admissions else None
    except AdmissionError:
        return None


def _pair(arguments: argparse.Namespace, bundle: Bundle, refusals: Sequence[RefusalReport]) -> Pair | None:
    if arguments.before is None:
        for option in ("before_name", "before_bundle"):
            if getattr(arguments, option):
                name = option.replace("_", "-")
                raise InputError(f"--{name} says nothing without --before", remedy="give the report with --before")
        return None
    if len(refusals) != 1:
        raise InputError(
            "--before needs one report to stand beside",
            found=f"{len(refusals)} --refusals",
            expected="one",
            remedy="give the report after the change with --refusals",
        )
    manifest = None if arguments.before_bundle is None else read_engines(arguments.before_bundle)
    return compare(read_refusals(arguments.before), refusals[0], arguments.before_name, manifest, bundle.manifest)


def _same_model(bundle: Bundle, path: Path) -> Manifest:
    manifest, own = read_engines(path), bundle.manifest
    if (manifest.model.id, manifest.model.version, manifest.ladder) != (own.model.id, own.model.version, own.ladder):
        raise InputError(
            f"{path / MANIFEST} is of another model or ladder than the bundle",
            found=f"{manifest.model.id} {manifest.model.version}, {len(manifest.ladder)} depths",
            expected=f"{own.model.id} {own.model.version}, with the ladder of {bundle.path}",
            remedy="compile this bundle, or leave --engines out",
        )
    return manifest


def render(inputs: Inputs) -> str:
    """The page's HTML; equal inputs give equal text.

    Raises:
        InputError: a profile of the bundle lacks an exit of its ladder.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "ms": ms,
        "megabytes": megabytes,
        "percent": percent,
        "thousands": lambda count: f"{count:,}".replace(",", "\u202f"),
        "is_digest": lambda words: re.fullmatch(r"[0-9a-f]{40,64}", words) is not None,
    }
    return environment.get_template("report.html.j2").render(_context(inputs)) + "\n"


def _context(inputs: Inputs) -> dict[str, Any]:
    bundle, manifest = inputs.bundle, inputs.bundle.manifest
    every = bundle.profiles()
    fitting = {name: item for name, item in every.items() if item.engines_digest == manifest.engines_digest}
    work = Workload(_prompt_tokens(inputs, fitting), inputs.answer_tokens)
    profiles = [profile_view(bundle, name, profile, work) for name, profile in fitting.items()]
    compiled = {_label(each): each for each in inputs.engines}
    bundles = {_label(manifest): manifest, **compiled}
    own = [report for report in inputs.refusals if report.engines_digest == manifest.engines_digest]
    judged = [*([inputs.admitted] if inputs.admitted else []), *(each for each in own if each != inputs.admitted)]
    status = status_view(bundle)
    first = next(iter(fitting.values()), None)
    return {
        "model": manifest.model,
        "manifest": manifest,
        "digest": bundle.digest,
        "machine": None if first is None else page_summary.machine_words(first),
        "date": None if first is None else page_summary.date_words(first),
        "sections": SECTIONS,
        "workload": work,
        "commands": page_summary.commands(bundle),
        "tiles": page_summary.tiles(bundle, profiles, own, status["depths"], inputs.pair),
        "ladder": ladder_view(bundle, status["depths"]),
        "bundles": bundles_view(bundles),
        "engines": engines_view(bundles),
        "profiles": profiles,
        "questions": answers_view(inputs.questions),
        "accuracy": None if inputs.accuracy is None else accuracy_view(inputs.accuracy, manifest.ladder),
        "status": status,
        "gate": next((view for report in judged if (view := gate_view(report)) is not None), None),
        "shifts": next((view for report in judged if (view := shifts_view(report)) is not None), None),
        "refusals": [refusals_view(report, manifest.engines_digest) for report in inputs.refusals],
        "comparison": None if inputs.pair is None else pair_view(inputs.pair),
        "not_run": list(_not_run(inputs, every, judged)),
        "provenance": [
            *page_summary.provenance(bundle, compiled, every, inputs.files),
            *([] if inputs.pair is None else pair_digests(inputs.pair)),
        ],
    }


def _not_run(inputs: Inputs, profiles: Mapping[str, LatencyProfile], judged: Sequence[RefusalReport]) -> Iterator[str]:
    bundle = inputs.bundle
    yield from page_summary.not_run(bundle, profiles, inputs.engines, inputs.refusals, inputs.not_run)
    yield from gate_not_run(bundle, judged)
    if inputs.accuracy is not None:
        yield from page_summary.accuracy_not_run(bundle.manifest)
    if inputs.pair is not None:
        yield from pair_not_run(inputs.pair, bundle.manifest.ladder)


def _label(manifest: Manifest) -> str:
    name = "Portable" if manifest.kind == "portable" else f"Compiled for {manifest.target.get('name')}"
    return f"{name}, {manifest.precision}"


def _prompt_tokens(inputs: Inputs, profiles: dict[str, LatencyProfile]) -> int:
    """The length of a prompt with a picture: as answered, else as profiled, else the usual."""
    model = inputs.bundle.manifest.model
    answered = [item.prompt_tokens for item in inputs.questions if item.picture and item.prompt_tokens]
    profiled = [profile.model.get("image_prompt_tokens") for profile in profiles.values()]
    known = [*answered, *(count for count in profiled if isinstance(count, int)), model.image_tokens + QUESTION_TOKENS]
    return min(known[0], model.kv_capacity)
