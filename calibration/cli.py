"""`engine-calibrate`: measure a bundle's latencies on this machine, and look at what was measured."""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.latency import Settings, measure, model_facts
from calibration.picture import draw
from calibration.report import Question, depth_table, depth_times, machine_lines, predict, prediction_table
from jetson_runtime.bundle import Bundle, open_bundle
from jetson_runtime.console import command_line, require, run, subcommand
from jetson_runtime.errors import BundleError, ConfigError, InputError, StorageError
from jetson_runtime.files import canonical_json, write_json
from jetson_runtime.profile import LatencyProfile

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser, commands = command_line("engine-calibrate", "Measures a bundle's latencies on the machine that will serve.")
    latency = subcommand(
        commands,
        "latency",
        "measure every engine and every exit, and keep the profile in the bundle",
        _latency,
        examples="  engine-calibrate latency build/demo/bundle\n"
        "  engine-calibrate latency build/demo/bundle --name 15W --count 200 --seconds 0 --picture profile.svg\n"
        "  engine-calibrate latency build/demo/bundle --out profile.json --json",
    )
    latency.add_argument("bundle", type=Path, help="a bundle directory")
    latency.add_argument("--name", help="the profile's name in the bundle (default: the bundle's target)")
    latency.add_argument("--out", type=Path, help="write to this file; then into the bundle only if --name is given")
    latency.add_argument("--picture", type=Path, help="draw the profile as SVG")
    latency.add_argument("--json", action="store_true", help="print the profile as JSON")
    latency.add_argument("--backend", default="onnxruntime", help="what runs the engines (default onnxruntime)")
    latency.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    latency.add_argument("--tokens", type=_integers, help="prompt lengths, such as 16,64,300 (default: by the model)")
    latency.add_argument("--count", type=int, default=30, help="warm runs of each measurement (default 30)")
    latency.add_argument("--cold-count", type=int, default=3, help="cold runs of each measurement (default 3; 0: none)")
    latency.add_argument("--pause-ms", type=float, default=150.0, help="idle time before a cold run (default 150)")
    latency.add_argument(
        "--seconds", type=float, default=40.0,
        help="time to aim for: what is slow then gets fewer warm runs, but at least 5 (default 40; 0: no limit)",
    )  # fmt: skip
    show = subcommand(
        commands,
        "show",
        "print a profile, and what it predicts for a request",
        _show,
        examples="  engine-calibrate show build/demo/bundle\n"
        "  engine-calibrate show profile.json --prompt-tokens 300 --image --max-tokens 32 --budgets 400,800,1600",
    )
    show.add_argument("source", type=Path, help="a bundle directory or a profile file")
    show.add_argument("--name", help="which profile, if the bundle has several")
    show.add_argument(
        "--prompt-tokens", type=int, help="predict for a prompt of this length, the image's tokens included"
    )
    show.add_argument("--image", action="store_true", help="the prompt has an image")
    show.add_argument("--max-tokens", type=int, default=64, help="longest answer (default 64)")
    show.add_argument("--budgets", type=_numbers, default=(), help="milliseconds for the answer, such as 400,800")
    show.add_argument("--picture", type=Path, help="draw the profile as SVG")
    show.add_argument("--json", action="store_true", help="print JSON")
    return run(parser, argv)


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"whole numbers with commas between them are expected, not '{text}'") from None


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"numbers with commas between them are expected, not '{text}'") from None


def _latency(arguments: argparse.Namespace) -> int:
    settings = Settings(
        arguments.backend, arguments.tokens, arguments.count, arguments.cold_count, arguments.pause_ms,
        arguments.seconds, arguments.threads,
    )  # fmt: skip
    if arguments.picture:
        require("matplotlib", "report")
    bundle = open_bundle(arguments.bundle)
    name = _name(arguments, bundle)
    # Before a minute of measuring, not after it.
    for place in (arguments.out, arguments.picture, bundle.path / "profiles" / "any" if name else None):
        if place is not None:
            _check_writable(place)
    if name:
        bundle.check_changeable()
    profile = measure(bundle, settings)
    if arguments.out:
        write_json(arguments.out, profile.to_dict())
    if name:
        with _uninterrupted():
            bundle.with_profile(profile, name)
    _print(profile, None, arguments)
    return 0


def _name(arguments: argparse.Namespace, bundle: Bundle) -> str | None:
    """The profile's name in the bundle, or None if it does not go there."""
    if arguments.name is None and arguments.out is not None:
        return None
    name = arguments.name if arguments.name is not None else str(bundle.manifest.target.get("name", "profile"))
    if not re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,63}", name, re.ASCII):
        raise ConfigError("--name can't be used", found=name, expected="letters, digits, '.', '_' and '-', at most 64")
    return name


def _check_writable(path: Path) -> None:
    """Refuse early what could not be written later.

    Raises:
        StorageError: a directory lies there, or its directory is not one that may be written to.
    """
    folder = path.absolute().parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise StorageError(
            f"{path} can't be written",
            found="a directory" if path.is_dir() else f"{folder} is not a directory that may be written to",
            remedy="choose a place that you may write to; --out FILE leaves the bundle as it is",
        )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt wait until the profile and the manifest that names its digest are both in place."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[Any] = []
    before = signal.signal(signal.SIGINT, lambda *_: waiting.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        raise KeyboardInterrupt


def _show(arguments: argparse.Namespace) -> int:
    if arguments.prompt_tokens is None and (arguments.image or arguments.budgets):
        raise ConfigError(
            "--image and --budgets need a request",
            remedy="add --prompt-tokens, such as 300 for an image and a question",
        )
    profile = _stored(arguments) if arguments.source.is_dir() else LatencyProfile.read(arguments.source)
    question = None
    if arguments.prompt_tokens is not None:
        question = Question(arguments.prompt_tokens, arguments.image, arguments.max_tokens, arguments.budgets)
    _print(profile, question, arguments)
    return 0


def _stored(arguments: argparse.Namespace) -> LatencyProfile:
    """A bundle's profile, with the bundle's own word for the depths."""
    bundle = open_bundle(arguments.source)
    profiles = bundle.profiles()
    known = ", ".join(profiles) or "none"
    if arguments.name is None and len(profiles) != 1:
        remedy = "name one with --name" if profiles else "run 'engine-calibrate latency' on the bundle"
        raise InputError(f"{bundle.path} has not exactly one latency profile", found=known, remedy=remedy)
    name = arguments.name or next(iter(profiles))
    if name not in profiles:
        raise InputError(f"{bundle.path} has no latency profile '{name}'", found=known, remedy="name one of them")
    if profiles[name].engines_digest != bundle.manifest.engines_digest:
        raise BundleError(
            f"the latency profile '{name}' was measured on other engines",
            found=f"engines digest {profiles[name].engines_digest[:16]}…",
            expected=f"{bundle.manifest.engines_digest[:16]}…",
            remedy="run 'engine-calibrate latency' on this bundle",
        )
    return replace(profiles[name], model=model_facts(bundle.manifest))


def _print(profile: LatencyProfile, question: Question | None, arguments: argparse.Namespace) -> None:
    prediction = None if question is None else predict(profile, question)
    if arguments.picture:
        draw(profile, arguments.picture)
    if arguments.json:
        depths = [vars(item) for quantile in ("p50", "p99") for item in depth_times(profile, quantile)]
        value = {"profile": profile.to_dict(), "depths": depths}
        sys.stdout.write(canonical_json(value if prediction is None else {**value, "prediction": prediction}))
        return
    print(f"{machine_lines(profile)}\n\n{depth_table(profile)}")
    print("\nmedians of warm runs; (p99) is what the policy counts on")
    if prediction is not None:
        print(f"\n{prediction_table(prediction)}")
