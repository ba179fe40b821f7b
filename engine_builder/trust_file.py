"""`engine-build trust add | revoke | show`: the trust file that `verify` and the runtime accept signatures by."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

from engine_builder.keys import public_key_from
from engine_builder.tables import table
from jetson_runtime.console import Commands, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json, write_json
from jetson_runtime.trust import Trust, TrustedKey, read_time, time_text

__all__ = ["add_trust"]

_SHORTEST_ID = 8


def add_trust(commands: Commands) -> None:
    """Add `engine-build trust` and its three actions."""
    examples = {
        "add": "  engine-build trust add trust.json --key keys/release-2026.pub --name 'release 2026'\n"
        "  engine-build trust add trust.json --key keys/second.pub --threshold 2 --not-after 2028-01-31T00:00:00Z",
        "revoke": "  engine-build trust revoke trust.json 0123456789abcdef --reason 'the build machine was stolen'",
        "show": "  engine-build trust show trust.json\n  engine-build trust show trust.json --json",
    }
    parser = subcommand(
        commands,
        "trust",
        "write the trust file: which keys count, how many must sign",
        _show,
        examples="\n".join(examples.values()),
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = subcommand(actions, "add", "add a key; the file is made if it is not there", _add, examples=examples["add"])
    add.add_argument("file", type=Path, metavar="FILE", help="the trust file")
    add.add_argument("--key", type=Path, required=True, metavar="FILE", help="a NAME.pub")
    add.add_argument("--name", default="", help="what people call the key")
    add.add_argument("--not-after", type=_time, metavar="TIME", help="its last moment, such as 2028-01-31T00:00:00Z")
    add.add_argument("--threshold", type=int, metavar="N", help="how many keys must sign (default: as it is, or 1)")
    revoke = subcommand(
        actions, "revoke", "mark a key as revoked; it stays in the file", _revoke, examples=examples["revoke"]
    )
    revoke.add_argument("file", type=Path, metavar="FILE", help="the trust file")
    revoke.add_argument("id", metavar="KEY", help=f"the key's id, or its first digits ({_SHORTEST_ID} or more)")
    revoke.add_argument("--reason", required=True, help="why, for whoever meets a bundle with its signature")
    show = subcommand(actions, "show", "list the keys and whether they count today", _show, examples=examples["show"])
    show.add_argument("file", type=Path, metavar="FILE", help="the trust file")
    show.add_argument("--json", action="store_true", help="print the file itself")


def _time(text: str) -> datetime:
    try:
        return read_time(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"a time such as 2028-01-31T00:00:00Z is expected, not '{text}'") from None


def _add(arguments: argparse.Namespace) -> int:
    made = TrustedKey(public_key_from(arguments.key), arguments.name, arguments.not_after)
    before = Trust.read(arguments.file) if arguments.file.exists() else None
    keys, threshold = ((), 1) if before is None else (before.keys, before.threshold)
    if made.id in {key.id for key in keys}:
        raise ConfigError(
            f"the key is in {arguments.file} already",
            found=f"key {made.id}",
            expected="a key that is not in it",
            remedy="make a new key; a revoked or expired one does not come back",
        )
    trust = Trust((*keys, made), threshold if arguments.threshold is None else arguments.threshold)
    write_json(arguments.file, trust.to_dict())
    print(f"{arguments.file}: key {made.id} added; {trust.threshold} of {len(trust.keys)} must sign")
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    trust = Trust.read(arguments.file)
    found = [key for key in trust.keys if len(arguments.id) >= _SHORTEST_ID and key.id.startswith(arguments.id)]
    if len(found) != 1:
        raise ConfigError(
            f"{arguments.id!r} names no key of {arguments.file}",
            found=f"{len(found)} keys",
            expected=f"{', '.join(key.id for key in trust.keys)}; the first {_SHORTEST_ID} digits or more are enough",
        )
    keys = tuple(replace(key, revoked=True, reason=arguments.reason) if key == found[0] else key for key in trust.keys)
    write_json(arguments.file, replace(trust, keys=keys).to_dict())
    print(f"{arguments.file}: key {found[0].id} revoked")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    trust, now = Trust.read(arguments.file), datetime.now(timezone.utc)
    if arguments.json:
        print(canonical_json(trust.to_dict()), end="")
        return 0
    rows = [
        [
            key.id,
            key.name,
            "always" if key.not_after is None else f"until {time_text(key.not_after)}",
            key.problem(now) or "counts",
        ]
        for key in trust.keys
    ]
    keys = table(("key", "name", "valid", "today"), rows, words=(0, 1, 2, 3))
    print(f"{trust.threshold} of these keys must sign:\n\n{keys}")
    return 0
