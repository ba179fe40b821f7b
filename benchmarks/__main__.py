"""`python -m benchmarks --list | CLAIM...`: exits 0 only if every claim named holds."""

from __future__ import annotations

import argparse
import sys

from benchmarks import (  # noqa: F401 (each registers its claims)
    end_to_end,
    enforcement,
    fuzzing,
    gate_reference,
    integrity,
    judges,
    kill_nine,
    planted_faults,
    realignment,
    realignment_speed,
    soundness,
    speed,
    sweep,
    tensorrt,
)
from benchmarks.claims import CLAIMS, measure
from jetson_runtime.errors import HoldfastError


def main() -> int:
    """Measure the claims that are named, or list them all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("claims", nargs="*", metavar="CLAIM", help="what to measure")
    parser.add_argument("--list", action="store_true", help="name every claim, its bound and its text")
    arguments = parser.parse_args()
    if arguments.list or not arguments.claims:
        for item in CLAIMS.values():
            print(f"{item.name:<38} {item.relation}{item.bound:g} {item.unit:<8} {item.text}")
        return 0
    unknown = [name for name in arguments.claims if name not in CLAIMS]
    if unknown:
        parser.error(f"no claim {', '.join(unknown)}; --list names them all")
    try:
        held = [measure(CLAIMS[name]) for name in arguments.claims]
        return 0 if all(held) else 1
    except HoldfastError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
