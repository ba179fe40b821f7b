"""The options by which every command chooses its judge."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from jetson_runtime.console import number
from jetson_runtime.errors import ConfigError
from refusal_suite.judge import LABELS
from refusal_suite.judges.endpoint import EndpointJudge
from refusal_suite.judges.http import json_post
from refusal_suite.judges.protocol import Judge, RulesJudge

__all__ = ["MODEL", "OPTIONS", "add_judge_options", "chosen_judge"]

RULES, MODEL, ENDPOINT = "rules", "model", "openai"
TIMEOUT_S = 60.0
# option → the kind of judge that it belongs to
OPTIONS = {"judge_labels": MODEL, "judge_url": ENDPOINT, "judge_key_env": ENDPOINT, "judge_timeout_s": ENDPOINT}


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Add `--judge` and what belongs to it."""
    group = parser.add_argument_group("judge")
    group.add_argument(
        "--judge",
        default=RULES,
        metavar="JUDGE",
        help=f"{RULES} (default), {MODEL}:DIR (a local classifier or safety model), "
        f"or {ENDPOINT}:MODEL (an OpenAI-compatible endpoint, which sees every request and answer)",
    )
    group.add_argument(
        "--judge-labels",
        metavar="THEIRS=OURS,...",
        help=f"a classifier's labels in our words ({', '.join(LABELS)}); else from judge.yaml in its directory",
    )
    group.add_argument("--judge-url", metavar="URL", help="the endpoint's address, up to /chat/completions")
    group.add_argument("--judge-key-env", metavar="NAME", help="the environment variable that holds the endpoint's key")
    group.add_argument(
        "--judge-timeout-s",
        type=number(float, 0.001, 3600.0),
        metavar="S",
        help=f"longest wait for one reply of the endpoint (default {TIMEOUT_S:g})",
    )


def chosen_judge(arguments: argparse.Namespace) -> Judge:
    """The judge that the options name, loaded and, for an endpoint, tried out.

    Raises:
        ConfigError: the options don't fit each other. CheckpointError: no judge in the directory. BackendError: the
            endpoint gave no verdict. MissingExtraError: a local model needs the extra `judge`.
    """
    kind, _, value = str(arguments.judge).partition(":")
    if (kind == RULES) == bool(value) or kind not in (RULES, MODEL, ENDPOINT):
        raise ConfigError(
            f"unknown judge '{arguments.judge}'",
            expected=f"{RULES}, {MODEL}:DIR or {ENDPOINT}:MODEL",
            remedy="name one of these with --judge",
        )
    for option, owner in OPTIONS.items():
        if getattr(arguments, option) is not None and owner != kind:
            raise ConfigError(
                f"--{option.replace('_', '-')} belongs to another kind of judge",
                found=f"--judge {kind}",
                expected=f"--judge {owner}:...",
                remedy="leave the option out, or name that judge",
            )
    if kind == RULES:
        return RulesJudge()
    return _local(value, arguments.judge_labels) if kind == MODEL else _endpoint(value, arguments)


def _local(folder: str, labels: str | None) -> Judge:
    from refusal_suite.judges.local import open_local

    return open_local(Path(folder), None if labels is None else _labels(labels))


def _labels(text: str) -> dict[str, str]:
    pairs = [part.strip().rpartition("=") for part in text.split(",")]
    mapping = {theirs.strip(): ours.strip() for theirs, _, ours in pairs}
    if len(mapping) != len(pairs) or "" in mapping or not set(mapping.values()) <= set(LABELS):
        raise ConfigError(
            "--judge-labels can't be read",
            found=text,
            expected=f"each of the judge's labels once, as THEIRS=OURS with OURS one of {', '.join(LABELS)}",
            remedy="correct the option",
        )
    return mapping


def _endpoint(model: str, arguments: argparse.Namespace) -> Judge:
    if arguments.judge_url is None:
        raise ConfigError(
            f"--judge {ENDPOINT}:{model} has no address",
            expected="--judge-url URL",
            remedy="give the address of the endpoint, up to /chat/completions",
        )
    name, key = arguments.judge_key_env, None
    if name is not None:
        key = os.environ.get(name, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigError(
                f"the environment variable '{name}' holds no key",
                found="nothing" if not key else "characters that no key has",
                expected="the endpoint's key",
                remedy="set it, or leave --judge-key-env out",
            )
    url = f"{arguments.judge_url.rstrip('/')}/chat/completions"
    judge = EndpointJudge(model, json_post(url, key, arguments.judge_timeout_s or TIMEOUT_S))
    judge.try_out()
    return judge
