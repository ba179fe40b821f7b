"""`jetson-runtime`: ask a bundle, and describe it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.admission import ADMITTED
from jetson_runtime.console import command_line, run, subcommand
from jetson_runtime.files import canonical_json
from jetson_runtime.ladder import Budget
from jetson_runtime.runtime import Answer, Request, Runtime, load

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser, commands = command_line("jetson-runtime", "Runs a bundle: picks the depth from the latency budget.")
    ask = subcommand(
        commands,
        "ask",
        "answer one question, streaming, and say the depth and the times",
        _ask,
        examples="  jetson-runtime ask build/demo/bundle --image demo/sign.png --prompt 'What shape is in the image?' "
        "--budget-ms 800\n"
        "  jetson-runtime ask build/demo/bundle --prompt 'Hello' --depth d1 --json\n"
        "  jetson-runtime ask build/demo/bundle --prompt 'Hello' --schedule 'd4>d1@prefill' --allow-unadmitted\n"
        "  jetson-runtime ask build/demo/bundle --prompt 'Hello' --budget-ms 400 --backend simulated",
    )
    _bundle_options(ask)
    ask.add_argument("--prompt", required=True, help="the question")
    ask.add_argument("--image", type=Path, help="a picture file")
    ask.add_argument("--budget-ms", type=float, help="milliseconds for the whole answer")
    ask.add_argument("--first-token-ms", type=float, help="milliseconds to the first token (with --per-token-ms)")
    ask.add_argument("--per-token-ms", type=float, help="milliseconds for each further token")
    ask.add_argument("--max-tokens", type=int, default=64, help="longest answer (default 64)")
    ask.add_argument("--depth", help="pin a depth by name instead of choosing from the budget")
    ask.add_argument("--schedule", help="pin a schedule by name: 'd4>d1@prefill' leaves earlier after the prompt")
    ask.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    ask.add_argument("--top-p", type=float, default=1.0, help="sample from the likeliest tokens only (default 1: all)")
    ask.add_argument("--seed", type=int, help="makes sampling repeatable")
    ask.add_argument("--json", action="store_true", help="print the whole answer as JSON instead of streaming it")
    describe = subcommand(
        commands,
        "describe",
        "check every byte of a bundle, load it and say what it is",
        _describe,
        examples="  jetson-runtime describe build/demo/bundle --json\n"
        "  jetson-runtime describe build/demo/bundle --trust trust.json",
    )
    _bundle_options(describe)
    describe.add_argument("--json", action="store_true", help="print JSON")
    return run(parser, argv)


def _bundle_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, help="a bundle directory")
    parser.add_argument("--backend", default="onnxruntime", help="onnxruntime (default) or simulated")
    parser.add_argument("--profile", help="a latency profile: a file, or a name in the bundle")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all that this process may use)")
    parser.add_argument(
        "--trust", type=Path, metavar="FILE", help="load only a bundle that the keys in this trust file signed"
    )
    parser.add_argument(
        "--allow-unadmitted",
        action="store_true",
        help="for development: also use depths and schedules that the gate did not admit; not with a signed bundle",
    )


def _load(arguments: argparse.Namespace) -> Runtime:
    return load(
        arguments.bundle,
        backend=arguments.backend,
        profile=arguments.profile,
        threads=arguments.threads,
        trust=arguments.trust,
        allow_unadmitted=arguments.allow_unadmitted,
    )


def _ask(arguments: argparse.Namespace) -> int:
    times = {
        "answer_ms": arguments.budget_ms,
        "first_token_ms": arguments.first_token_ms,
        "per_token_ms": arguments.per_token_ms,
    }
    budget = Budget(**times) if any(value is not None for value in times.values()) else None
    request = Request(
        prompt=arguments.prompt,
        image=arguments.image,
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
        depth=arguments.depth,
        schedule=arguments.schedule,
    )
    with _load(arguments) as runtime:
        stream = None if arguments.json else lambda token: print(token.text, end="", flush=True)
        answer = runtime.invoke(request, budget, on_token=stream)
    if arguments.json:
        sys.stdout.write(canonical_json(answer.to_dict()))
    else:
        print(f"\n\n{_summary(answer)}")
    return 0


def _summary(answer: Answer) -> str:
    predicted = "nothing (no budget)" if answer.predicted_ms is None else f"at most {answer.predicted_ms:.0f} ms"
    first = "no token" if answer.first_token_ms is None else f"first token after {answer.first_token_ms:.0f} ms"
    prepared = f"{answer.prepare_ms:.0f} ms before the depth was chosen"
    return (
        f"depth      {answer.depth}{'' if answer.schedule is None else f', schedule {answer.schedule}'}\n"
        f"predicted  {predicted}\n"
        f"measured   {answer.elapsed_ms:.0f} ms; {first}, {prepared}\n"
        f"tokens     {len(answer.tokens)} after a prompt of {answer.prompt_tokens}\nfinished   {answer.finish_reason}"
    )


def _describe(arguments: argparse.Namespace) -> int:
    with _load(arguments) as runtime:
        facts = runtime.describe()
    if arguments.json:
        sys.stdout.write(canonical_json(facts))
        return 0
    for name, value in facts.items():
        if name == "ladder":
            value = ", ".join(
                f"{depth['name']} (vision {depth['vision']}, decoder {depth['decoder']})" for depth in value
            )
        if name == "admissions":
            value = _admitted(value)
        print(f"{name:18}{value}")
    return 0


def _admitted(admissions: Mapping[str, Any]) -> str:
    """The verdict on every depth, how many schedules are admitted, and which."""
    depths = ", ".join(f"{name} {verdict['verdict']}" for name, verdict in admissions["depths"].items())
    schedules = admissions["schedules"]
    admitted = [name for name, verdict in schedules.items() if verdict["verdict"] == ADMITTED]
    named = f": {', '.join(admitted)}" if admitted else ""
    void = "" if admissions["void"] is None else f" ({admissions['void']})"
    return f"{depths}; {len(admitted)} of {len(schedules)} schedules admitted{named}{void}"
