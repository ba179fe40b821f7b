"""Every subcommand explains itself, and its examples are commands that it accepts."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from typing import Any

import pytest

PROGRAMS = {
    "engine-build": "engine_builder.cli",
    "engine-calibrate": "calibration.cli",
    "refusal-check": "refusal_suite.cli",
    "jetson-runtime": "jetson_runtime.cli",
    "realign": "realignment.cli",
}


class ParsedError(Exception):
    """Ends a command once its arguments are parsed."""


def help_of(program: str, *words: str) -> str:
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text), pytest.raises(SystemExit) as ended:
        importlib.import_module(PROGRAMS[program]).main([*words, "--help"])
    assert ended.value.code == 0
    return text.getvalue()


@pytest.mark.parametrize("program", PROGRAMS)
def test_examples_are_accepted_and_exit_codes_are_told(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^    (\S+)  ", help_of(program), re.MULTILINE)
    assert commands
    pages = {command: help_of(program, command) for command in commands}
    original = argparse.ArgumentParser.parse_args

    def parse(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse)
    for command, page in pages.items():
        assert "exit codes:" in page
        examples = page.split("examples:\n")[1].split("\n\n")[0].replace("\\\n", " ")
        lines = [line.strip() for line in examples.splitlines() if line.strip()]
        assert lines, command
        for line in lines:
            words = shlex.split(line)
            assert words[0] == program
            with pytest.raises(ParsedError):
                importlib.import_module(PROGRAMS[program]).main(words[1:])
