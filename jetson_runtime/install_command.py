"""`jetson-runtime install`, `status`, `resolve`, `confirm` and `rollback`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jetson_runtime.bundle import open_bundle
from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import DigestError
from jetson_runtime.files import canonical_json
from jetson_runtime.health import answers_at_every_depth
from jetson_runtime.install import install
from jetson_runtime.install_log import read_log
from jetson_runtime.slots import LOG, Root, Slot, State, confirm, current, resolve, rollback
from jetson_runtime.trust import Trust

__all__ = ["add_install"]


def add_install(commands: Commands) -> None:
    """Add the subcommands."""
    adding = subcommand(
        commands,
        "install",
        "verify a bundle, copy it into the idle slot of a root, try it, and let it serve",
        _install,
        examples="  jetson-runtime install build/bundle --root /var/lib/holdfast --trust trust.json\n"
        "  jetson-runtime install build/bundle --root /var/lib/holdfast --trust trust.json --trial 3 --json",
    )
    adding.add_argument("bundle", type=Path, help="a signed bundle")
    adding.add_argument("--trust", type=Path, required=True, metavar="FILE", help="whose signatures are accepted")
    adding.add_argument(
        "--trial",
        type=int,
        default=0,
        metavar="N",
        help="go back by itself after N starts without 'confirm' (default 0: the health check is enough)",
    )
    adding.add_argument("--backend", default="onnxruntime", help="for the health check (default onnxruntime)")
    showing = subcommand(
        commands,
        "status",
        "say what serves and what is on trial, and check the log; exit code 1 if the log does not hold together",
        _status,
        examples="  jetson-runtime status --root /var/lib/holdfast\n"
        "  jetson-runtime status --root /var/lib/holdfast --trust trust.json --json",
    )
    showing.add_argument("--trust", type=Path, metavar="FILE", help="also verify the bundle that the next start gets")
    starting = subcommand(
        commands,
        "resolve",
        "print the bundle to start; counts a start while a bundle is on trial",
        _resolve,
        examples="  jetson-runtime resolve --root /var/lib/holdfast",
    )
    parsers = [adding, showing, starting]
    for name, summary, call in (
        ("confirm", "end a trial: the bundle on trial serves from now on", confirm),
        ("rollback", "end a trial: what served before goes on serving", rollback),
    ):
        example = f"  jetson-runtime {name} --root /var/lib/holdfast"
        ending = partial(_end_trial, end=call)
        parsers.append(subcommand(commands, name, summary, ending, examples=example))
    for parser in parsers:
        parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the install root")
        if parser is not starting:
            parser.add_argument("--json", action="store_true", help="print JSON")


def _install(arguments: argparse.Namespace) -> int:
    state = install(
        arguments.bundle,
        arguments.root,
        Trust.read(arguments.trust),
        trial_starts=arguments.trial,
        health=partial(answers_at_every_depth, backend=arguments.backend),
    )
    return _tell(state, arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    root = Root(arguments.root)
    log, state, highest = read_log(root.path / LOG), root.state(), root.confirmed()
    if arguments.trust is not None:
        _check_bundle(current(arguments.root), state, Trust.read(arguments.trust))
    serving = 0 if state.serving is None else state.serving.release
    counter = serving if highest is None else highest.release
    facts = {
        "release_counter": counter,
        "log": {
            "events": len(log.events),
            "head": log.head,
            "broken_line": log.broken_line,
            "torn_bytes": log.torn_bytes,
            "agrees": serving == counter,
        },
    }
    _tell(state, arguments.json, facts)
    if not arguments.json:
        told = [f"{len(log.events)} events, head {log.head}"]
        told += [] if log.broken_line is None else [f"line {log.broken_line} does not follow from the one before it"]
        told += [] if serving == counter else [f"release {counter} was confirmed, and state.json does not know it"]
        print(f"counter   {counter}\nlog       {'; '.join(told)}")
    return 0 if log.broken_line is None and serving == counter else 1


def _check_bundle(place: Path, state: State, trust: Trust) -> None:
    """Whether a slot holds, whole and trusted, the bundle that was installed into it."""
    bundle = open_bundle(place, trust)
    expected = [slot.bundle_digest for slot in (state.serving, state.trial) if slot and slot.name == place.name]
    if [bundle.digest] != expected:
        raise DigestError(
            f"{place} is not the bundle that was installed there",
            found=f"release {bundle.manifest.release} with manifest sha256 {bundle.digest}",
            expected=f"manifest sha256 {', '.join(expected)}",
            remedy="install the release that should serve again",
        )


def _resolve(arguments: argparse.Namespace) -> int:
    print(resolve(arguments.root))
    return 0


def _end_trial(arguments: argparse.Namespace, end: Callable[[Path], State]) -> int:
    return _tell(end(arguments.root), arguments.json)


def _tell(state: State, as_json: bool, more: Mapping[str, Any] | None = None) -> int:
    if as_json:
        sys.stdout.write(canonical_json({**state.to_dict(), **(more or {})}))
        return 0
    print(f"serves    {_slot(state.serving)}")
    if state.trial is not None:
        print(f"on trial  {_slot(state.trial)}; {state.starts_left} starts left")
    return 0


def _slot(slot: Slot | None) -> str:
    return "nothing" if slot is None else f"release {slot.release} in slot {slot.name}, manifest {slot.bundle_digest}"
