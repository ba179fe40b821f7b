"""The command `engine-build`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine_builder import inspect
from engine_builder.bom import add_bom
from engine_builder.check import add_check
from engine_builder.compile import compile_bundle
from engine_builder.config import BuildConfig
from engine_builder.signing import add_signing
from engine_builder.targets import load_target, target_names
from engine_builder.trust_file import add_trust
from jetson_runtime.bundle import open_bundle
from jetson_runtime.console import Commands, command_line, run, subcommand
from jetson_runtime.errors import ConfigError
from jetson_runtime.files import canonical_json
from jetson_runtime.manifest import Manifest

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run `engine-build` and return its exit code."""
    parser, commands = command_line("engine-build", "Checkpoint to portable bundle to engine bundle.")
    _add_plan(commands)
    _add_export(commands)
    _add_compile(commands)
    _add_inspect(commands)
    add_check(commands)
    add_bom(commands)
    add_signing(commands)
    add_trust(commands)
    return run(parser, argv)


def _add_plan(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "plan",
        "say what each engine and depth will weigh and whether it fits, before anything is built",
        _plan,
        examples="  engine-build plan build/reference --config build.yaml --target orin-nano-8\n"
        "  engine-build plan --config build.yaml --json",
    )
    _add_checkpoint(parser)
    parser.add_argument("--target", metavar="T", help=f"instead of build.yaml's: {', '.join(target_names())}")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON, sizes in bytes")


def _plan(arguments: argparse.Namespace) -> int:
    from engine_builder import plan

    config = BuildConfig.read(arguments.config)
    target = load_target(arguments.target or config.target)
    result = plan.plan(_checkpoint(arguments, config), config, target)
    print(canonical_json(result.to_dict()) if arguments.json else f"{plan.describe(result)}\n", end="")
    return 1 if result.problems else 0


def _add_export(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "export",
        "write the portable bundle of a checkpoint",
        _export,
        examples="  engine-build export build/reference --config build.yaml --out build/bundle\n"
        "  engine-build export --config build.yaml --out build/bundle --force --json",
    )
    _add_checkpoint(parser)
    _add_output(parser)


def _export(arguments: argparse.Namespace) -> int:
    from engine_builder.export import export

    config = BuildConfig.read(arguments.config)
    manifest = export(_checkpoint(arguments, config), config, arguments.out, replace=arguments.force)
    return _written(manifest, arguments)


def _add_compile(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "compile",
        "compile a portable bundle's engines for a target",
        _compile,
        examples="  engine-build compile build/bundle --target rtx-sm86 --out build/engines\n"
        "  engine-build compile build/bundle --target rtx-sm120 --out build/engines --force --json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="what 'engine-build export' wrote")
    parser.add_argument("--target", required=True, metavar="T", help=", ".join(target_names()))
    _add_output(parser)


def _compile(arguments: argparse.Namespace) -> int:
    manifest = compile_bundle(arguments.bundle, arguments.target, arguments.out, replace=arguments.force)
    return _written(manifest, arguments)


def _add_inspect(commands: Commands) -> None:
    parser = subcommand(
        commands,
        "inspect",
        "check every file of a bundle against its manifest and show what it holds",
        _inspect,
        examples="  engine-build inspect build/bundle\n  engine-build inspect build/engines --json",
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a portable bundle or an engine bundle")
    parser.add_argument("--json", action="store_true", help="print the manifest and its digests as JSON")


def _inspect(arguments: argparse.Namespace) -> int:
    bundle = open_bundle(arguments.bundle)
    if arguments.json:
        digests = {"manifest_sha256": bundle.digest, "engines_sha256": bundle.manifest.engines_digest}
        print(canonical_json({**digests, "manifest": bundle.manifest.to_dict()}), end="")
    else:
        print(inspect.describe(bundle))
    return 0


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint", type=Path, nargs="?", metavar="CHECKPOINT", help="a Hugging Face directory; else build.yaml's"
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="build.yaml")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle to write")
    parser.add_argument(
        "--force", action="store_true", help="replace what lies at --out when the new bundle is complete"
    )
    parser.add_argument("--json", action="store_true", help="print a summary as JSON")


def _checkpoint(arguments: argparse.Namespace, config: BuildConfig) -> Path:
    checkpoint: Path | None = arguments.checkpoint or config.checkpoint
    if checkpoint is None:
        raise ConfigError(
            "no checkpoint was given",
            expected=f"a CHECKPOINT on the command line, or 'checkpoint' in {arguments.config}",
            remedy=f"engine-build {arguments.command} CHECKPOINT --config {arguments.config}",
        )
    return checkpoint


def _written(manifest: Manifest, arguments: argparse.Namespace) -> int:
    size = sum(record.size_bytes for record in manifest.files.values())
    summary = {
        "bundle": str(arguments.out),
        "kind": manifest.kind,
        "target": manifest.target["name"],
        "precision": manifest.precision,
        "engines": len(manifest.engines),
        "size_bytes": size,
        "engines_sha256": manifest.engines_digest,
    }
    if arguments.json:
        print(canonical_json(summary), end="")
    else:
        print(f"{arguments.out}: {len(manifest.engines)} engines, {manifest.precision}, {size / 1e6:,.1f} MB")
    return 0
