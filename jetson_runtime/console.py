"""What the five command lines share: parsers with runnable examples, errors that end as one message and one code."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from jetson_runtime.errors import HoldfastError, MissingExtraError

__all__ = ["EXIT_CODES", "Commands", "command_line", "number", "require", "run", "subcommand"]

EXIT_CODES = """exit codes:
  0 done    1 a check was run and did not hold    2 wrong input or configuration    3 checkpoint or bundle refused
  4 no depth fits the budget    5 engine can't be built or run    6 disk    7 a package is missing    130 interrupted"""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
N = TypeVar("N", int, float)


def command_line(program: str, summary: str) -> tuple[argparse.ArgumentParser, Commands]:
    """A parser for `program` and the place where its subcommands are added.

    Each subcommand sets `call`, a function that takes the parsed arguments and returns the exit code.
    """
    parser = argparse.ArgumentParser(
        prog=program, description=summary, epilog=EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return parser, parser.add_subparsers(dest="command", required=True, metavar="COMMAND")


def subcommand(
    commands: Commands, name: str, summary: str, call: Callable[[argparse.Namespace], int], *, examples: str
) -> argparse.ArgumentParser:
    """Add the subcommand `name`; `examples` are lines that can be run as they stand."""
    parser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"examples:\n{examples}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(call=call)
    return parser


def run(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Parse, call the subcommand, and turn our errors into a message on standard error and an exit code."""
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except HoldfastError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def number(kind: type[N], least: N, most: N | None = None) -> Callable[[str], N]:
    """The type of an option that takes an int or a float, from `least` to `most`."""
    words = "a whole number" if kind is int else "a number"
    words += f", {least:g} or more" if most is None else f" from {least:g} to {most:g}"

    def read(text: str) -> N:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {words}, not '{text}'") from None
        # Written so that what is not a number does not pass.
        if not (value >= least and (most is None or value <= most)):
            raise argparse.ArgumentTypeError(f"must be {words}, not '{text}'")
        return value

    return read


def require(module: str, extra: str, package: str | None = None) -> Any:
    """Import `module` when it is first needed.

    Raises:
        MissingExtraError: it is not installed; the message carries the pip line for `extra`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(package or module, extra) from None
