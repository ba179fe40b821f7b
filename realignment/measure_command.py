"""`realign measure`: its options, the order of depths, going on after a kill."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.console import Commands, number, require, subcommand
from jetson_runtime.errors import ConfigError, StorageError
from jetson_runtime.files import canonical_json, storage_errors, write_json
from realignment.exit_picture import exits_svg
from realignment.exit_report import checkpoint_facts, describe, measured, table, without_labels
from realignment.measure import MAX_TOKENS, Depth, chosen_pictures, every_exit, measure_depths, with_pictures
from realignment.packages import EASY_VQA, fetch
from realignment.towers import Towers
from realignment.visual_questions import Drawn, drawn_questions
from refusal_suite.measure import unique_ids
from refusal_suite.prompts import BUILTIN, PromptSet, load_prompts
from refusal_suite.results import describe_set

__all__ = ["PICTURE", "REPORT", "add_measure"]

REPORT, PICTURE = "measure.json", "exits.svg"
ALL = "all"


def add_measure(commands: Commands) -> argparse.ArgumentParser:
    """Add the subcommand; the caller adds `--cache`."""
    parser = subcommand(
        commands,
        "measure",
        "Measure what a checkpoint refuses, answers and sees at every exit of both towers.",
        _measure,
        examples="  realign measure reference --out measured --questions 480\n"
        "  realign measure reference --out measured --questions 480 --resume\n"
        "  realign measure reference --vision-exits 4,8,12 --limit 88\n"
        "  realign measure reference --depths 4:12,8:20,12:30 --prompts advbench.csv xstest.csv --json",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a LLaVA directory")
    parser.add_argument(
        "--prompts",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="prompt sets (default: the one that comes with Holdfast)",
    )
    exits = "1,2,... or all: each under the other tower's full depth (default: all exits of both towers)"
    parser.add_argument("--vision-exits", type=_exits, metavar="LIST", help=exits)
    parser.add_argument("--decoder-exits", type=_exits, metavar="LIST", help="likewise")
    parser.add_argument(
        "--depths", type=_depths, metavar="LIST", help="instead: vision:decoder pairs, for example 4:12,8:20"
    )
    parser.add_argument(
        "--text-alone", action="store_true", help="also ask the prompts without a picture, once per decoder exit"
    )
    parser.add_argument(
        "--limit", type=number(int, 1), metavar="N", help="at most N prompts of each set, spread over it"
    )
    parser.add_argument(
        "--questions",
        type=number(int, 0),
        default=0,
        metavar="N",
        help="visual questions per depth, of easy-VQA (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, help="which prompts and questions are taken (default: 0)")
    parser.add_argument(
        "--max-tokens",
        type=number(int, 1),
        default=MAX_TOKENS,
        metavar="N",
        help=f"longest answer (default: {MAX_TOKENS})",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"{REPORT} and {PICTURE} go here")
    parser.add_argument("--resume", action="store_true", help="keep the depths that DIR holds and measure the others")
    parser.add_argument("--json", action="store_true", help="print JSON, without the verdicts on single prompts")
    return parser


def _exits(text: str) -> tuple[int, ...] | str:
    try:
        return ALL if text == ALL else tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of exits such as 1,2,12, nor '{ALL}'") from None


def _depths(text: str) -> tuple[Depth, ...]:
    try:
        pairs = [part.split(":") for part in text.split(",")]
        return tuple((int(vision), int(decoder)) for vision, decoder in pairs)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of depths such as 4:12,8:20") from None


def _measure(arguments: argparse.Namespace) -> int:
    file = _place(arguments)
    whole = [load_prompts(path) for path in arguments.prompts or [BUILTIN]]
    parts = [_part(each, arguments) for each in whole]
    unique_ids(parts)
    # From the whole set, so that --limit does not change which picture goes with a prompt.
    sets = [with_pictures(part, chosen_pictures(each)) for part, each in zip(parts, whole, strict=True)]
    questions: Drawn | None = None
    if arguments.questions:
        questions = drawn_questions(fetch(EASY_VQA, arguments.cache), arguments.questions, arguments.seed)
    towers = Towers(arguments.checkpoint)
    depths = _chosen(towers, arguments)
    described = [describe_set(part, each, arguments.seed) for part, each in zip(parts, whole, strict=True)]
    report = describe(
        towers,
        checkpoint_facts(arguments.checkpoint),
        described,
        sets,
        max_tokens=arguments.max_tokens,
        questions=questions,
    )
    done = measured(file, report) if file is not None else {}
    report["depths"] = list(done.values())
    missing = [depth for depth in depths if depth not in done]
    for result in measure_depths(towers, sets, missing, max_tokens=arguments.max_tokens, questions=questions):
        report["depths"].append(result.to_dict())
        if file is not None:
            write_json(file, report)
    _show(arguments, report, file)
    return 0


def _place(arguments: argparse.Namespace) -> Path | None:
    """Where the report goes; what can be wrong with it is found out before anything is loaded."""
    if arguments.depths and (arguments.vision_exits or arguments.decoder_exits):
        raise ConfigError(
            "--depths can't be combined with --vision-exits or --decoder-exits", remedy="give one of them"
        )
    if arguments.out is None:
        if arguments.resume:
            raise ConfigError("--resume needs --out", remedy="name the directory of the run to go on with")
        return None
    require("matplotlib", "report")
    file: Path = arguments.out.absolute() / REPORT
    if file.exists() and not arguments.resume:
        raise StorageError(
            f"{arguments.out} holds a measurement",
            expected="a new place",
            remedy="add --resume to go on with it, or choose another",
        )
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _part(prompts: PromptSet, arguments: argparse.Namespace) -> PromptSet:
    if arguments.limit is None or len(prompts.prompts) <= arguments.limit:
        return prompts
    return prompts.limited(arguments.limit, arguments.seed)


def _chosen(towers: Towers, arguments: argparse.Namespace) -> list[Depth]:
    vision, decoder = arguments.vision_exits, arguments.decoder_exits
    if arguments.depths:
        towers.check_exits("vision", [vision for vision, _ in arguments.depths])
        towers.check_exits("decoder", [decoder for _, decoder in arguments.depths])
        depths: list[Depth] = list(dict.fromkeys(arguments.depths))
    elif vision is None and decoder is None:
        depths = every_exit(towers)
    else:
        seen = _checked(towers, "vision", vision)
        said = _checked(towers, "decoder", decoder)
        pairs = [*((exit, towers.decoder_exit) for exit in seen), *((towers.vision_exit, exit) for exit in said)]
        depths = list(dict.fromkeys(pairs))
    if arguments.text_alone:
        depths += [(None, exit) for exit in dict.fromkeys(exit for _, exit in depths)]
    return depths


def _checked(towers: Towers, tower: str, exits: Sequence[int] | str | None) -> Sequence[int]:
    if exits is None:
        return ()
    there = towers.vision_exits if tower == "vision" else towers.decoder_exits
    return there if isinstance(exits, str) else towers.check_exits(tower, exits)


def _show(arguments: argparse.Namespace, report: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        picture = file.with_name(PICTURE)
        partial = picture.with_name(f".{PICTURE}.partial")
        with storage_errors(picture):
            try:
                partial.write_text(exits_svg(report), encoding="utf-8")
                partial.replace(picture)
            finally:
                partial.unlink(missing_ok=True)
    if arguments.json:
        sys.stdout.write(canonical_json(without_labels(report)))
    else:
        print(table(report) + ("" if file is None else f"\n\nreport: {arguments.out / REPORT}"))
