"""Whether a report is evidence about this bundle and these prompts; reading it, and the reference, for the gate.

Everything is compared by digest: the engines, each prompt set, the judge. Errors name ids and digests, never a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.errors import AdmissionError, ConfigError, InputError
from jetson_runtime.files import read_json
from jetson_runtime.manifest import Manifest
from refusal_suite.comparison import least_for_limit
from refusal_suite.gate import Evidence, Rules
from refusal_suite.judge import LABELS
from refusal_suite.noninferiority import least_n
from refusal_suite.prompts import BENIGN, HARMFUL, Prompt, PromptSet
from refusal_suite.results import SCHEMA

__all__ = ["MEASURED", "check_enough", "read_evidence", "read_length", "read_reference"]

MEASURED = "holdfast/realign-measure/1"
"""The schema of `realign measure`'s reports."""
_LETTERS = {label[0]: label for label in LABELS}


def read_evidence(
    report: Mapping[str, Any],
    manifest: Manifest,
    sets: Sequence[PromptSet],
    judge: str,
    reference: Mapping[str, str] | None,
) -> Evidence:
    """The evidence in a report of `refusal-check run`; `sets` are the whole prompt sets at hand.

    Raises:
        AdmissionError: it was measured on other engines or on another ladder.
        InputError: no such report, or other prompts, another judge, or answers that are missing or too many.
    """
    try:
        _check_bundle(report, manifest)
        if report["judge"] != judge:
            raise InputError(
                "the report is another judge's", found=report["judge"], expected=judge, remedy="measure again"
            )
        prompts = _asked(report, sets)
        labels = {point["name"]: _labels(point, prompts) for point in [*report["depths"], *report.get("schedules", ())]}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "the refusal report can't be read", found=repr(error), expected=SCHEMA, remedy="run 'refusal-check run'"
        ) from None
    return Evidence(manifest.ladder, prompts, labels, reference)


def read_length(report: Any) -> int:
    """The longest answer, in tokens, that a report was measured with.

    Raises:
        InputError: it does not say.
    """
    if not isinstance(report, dict) or type(report.get("max_tokens")) is not int:
        raise InputError("the refusal report can't be read", expected=SCHEMA, remedy="run 'refusal-check run'")
    return int(report["max_tokens"])


def check_enough(prompts: Sequence[Prompt], rules: Rules, reference: Mapping[str, str] | None) -> None:
    """Refuse, before anything is asked, prompts that are too few for the margins and limits.

    Raises:
        ConfigError: with fewer prompts no result whatever could be admitted; says how many it takes.
    """
    for kind in (HARMFUL, BENIGN):
        of_kind = [prompt for prompt in prompts if prompt.kind == kind]
        compared = [prompt for prompt in of_kind if reference is None or prompt.id in reference]
        for limit, n, needs in (
            (f"a margin of {rules.margin(kind):g} points", compared, least_n(rules.margin(kind) / 100, rules.alpha)),
            (f"a limit of {rules.max_incoherent_percent:g} % incoherent answers", of_kind,
             least_for_limit(rules.max_incoherent_percent, rules.alpha)),
        ):  # fmt: skip
            if len(n) < needs:
                raise ConfigError(
                    f"too few {kind} prompts to admit anything with {limit}",
                    found=f"{len(n)} {kind} prompts",
                    expected=f"at least {needs}; 'refusal-check plan' says how many are likely to do",
                    remedy="add prompt sets, take a higher --limit, or state a wider margin",
                )


def read_reference(path: Path, sets: Sequence[PromptSet], judge: str, max_tokens: int) -> dict[str, str]:
    """Labels by prompt id of a model at its full depth, from a report of `refusal-check run` or `realign measure`.

    `realign measure` shows a picture with every prompt, so of its prompts only those count that have one of their own.

    Raises:
        InputError: neither kind of report, or measured on other prompts, by another judge or with another length.
    """
    value = read_json(path)
    try:
        if value["schema"] not in (SCHEMA, MEASURED):
            raise ValueError(value["schema"])
        found = {"judge": value["judge"], "longest answer": f"{value['max_tokens']} tokens"}
        for what, expected in {"judge": judge, "longest answer": f"{max_tokens} tokens"}.items():
            if found[what] != expected:
                raise InputError(
                    f"{path} has another {what}", found=found[what], expected=expected, remedy="measure it alike"
                )
        known = {each["sha256"] for each in value["prompt_sets"]}
        missing = [each for each in sets if each.sha256 not in known]
        if missing:
            raise InputError(
                f"{path} was not measured on the prompt set '{missing[0].name}'",
                found=f"sets of sha256 {', '.join(sorted(known))}",
                expected=f"sha256 {missing[0].sha256}",
                remedy="measure the reference on the same file",
            )
        own = [prompt for each in sets for prompt in each.prompts]
        if value["schema"] == SCHEMA:
            return _full_depth(value)
        full = value["full_depth"]
        [depth] = [each for each in value["depths"] if all(each[tower] == full[tower] for tower in full)]
        return {prompt.id: _LETTERS[depth["labels"][prompt.id]] for prompt in own
                if prompt.image is not None and prompt.id in depth["labels"]}  # fmt: skip
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no reference",
            found=repr(error),
            expected="a report of 'refusal-check run' or 'realign measure' that has the full depth",
            remedy="run one of them again",
        ) from None


def _full_depth(report: Mapping[str, Any]) -> dict[str, str]:
    full = report["ladder"][-1]["name"]
    [depth] = [each for each in report["depths"] if each["name"] == full]
    return {str(item["id"]): LABELS[LABELS.index(item["label"])] for item in depth["items"]}


def _check_bundle(report: Mapping[str, Any], manifest: Manifest) -> None:
    if report["schema"] != SCHEMA:
        raise ValueError(report["schema"])
    remedy = "measure this bundle: leave --report out, or run 'refusal-check run' on it"
    if report["bundle"]["engines_digest"] != manifest.engines_digest:
        raise AdmissionError(
            "the report was measured on other engines",
            found=f"engines digest {report['bundle']['engines_digest']}",
            expected=manifest.engines_digest,
            remedy=remedy,
        )
    if list(report["ladder"]) != manifest.ladder.to_dicts():
        raise AdmissionError(
            "the report was measured on another ladder",
            found=", ".join(f"{each['name']} ({each['vision']}, {each['decoder']})" for each in report["ladder"]),
            expected=", ".join(map(str, manifest.ladder)),
            remedy=remedy,
        )


def _asked(report: Mapping[str, Any], sets: Sequence[PromptSet]) -> tuple[Prompt, ...]:
    """The prompts of the report, from the files at hand; only if these are the files that were asked."""
    at_hand = {each.sha256: each for each in sets}
    prompts: list[Prompt] = []
    for described in report["prompt_sets"]:
        whole = at_hand.get(described["sha256"])
        if whole is None:
            raise InputError(
                f"the prompt set '{described['name']}' is not the one that was asked",
                found=f"sha256 {', '.join(sorted(at_hand))}",
                expected=f"sha256 {described['sha256']}",
                remedy="name the file that was asked with --prompts, or measure again with the new one",
            )
        sample = described["sample"]
        part = whole if sample is None else whole.limited(int(sample["n"]), int(sample["seed"]))
        prompts += part.prompts
    return tuple(prompts)


def _labels(point: Mapping[str, Any], prompts: Sequence[Prompt]) -> dict[str, str]:
    """The labels of one depth or schedule: one for every prompt that should have been asked, and for no other."""
    kinds = {prompt.id: prompt.kind for prompt in prompts}
    found = {str(item["id"]): (str(item["kind"]), str(item["label"])) for item in point["items"]}
    wrong = [
        id
        for id in dict.fromkeys([*kinds, *found])
        if id not in found or found[id][0] != kinds.get(id) or found[id][1] not in LABELS
    ]
    if wrong or len(point["items"]) != len(found):
        raise InputError(
            f"the answers at {point['name']} are not those to the prompts that were asked",
            found=f"{len(point['items'])} answers; differing: {', '.join(wrong[:3]) or 'an id that occurs twice'}",
            expected=f"one answer to each of the {len(kinds)} prompts",
            remedy="measure again",
        )
    return {id: label for id, (_, label) in found.items()}
