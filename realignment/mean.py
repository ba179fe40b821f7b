"""`realign mean`: one checkpoint out of several trainings from the same start, the mean of what they learned.

A single run of L-PPO ends where its last swings have left it, with one exit refusing more and another less than meant.
The mean of runs swings less than each, and runs with opposite shares meet between them (model soups, Wortsman et al.
2022; for reinforcement learning from feedback Ramé et al. 2024, WARP).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError, ConfigError
from jetson_runtime.files import canonical_json, read_json, sha256_file, staged_directory, write_json
from realignment.adapters import adapter_facts, merge, read_adapter, write_adapter
from realignment.lppo.training import VALUE_HEAD
from realignment.supervised import ADAPTER, CHECKPOINT, RECORD, tools, weight_digests
from realignment.tensors import save_tensors

__all__ = ["mean"]


def mean(checkpoint: Path, runs: Sequence[Path], out: Path, *, replace: bool = False) -> dict[str, Any]:
    """Write to `out` the mean of the adapters and value heads in `runs`, the merged checkpoint, and the record.

    The factors are averaged, not their products: that is right because the runs began at the same factors, which is
    checked (one base, one seed, one rank). A run that is named twice counts twice. Returns the record; its `runs` are
    the runs' own.

    Raises:
        CheckpointError: a folder holds no finished run of `realign ppo`, or one from another start.
        ConfigError: fewer than two runs. StorageError: `out` exists and `replace` is False, or can't be written.
    """
    if len(runs) < 2:
        raise ConfigError("a mean needs several runs", found=len(runs), expected="two or more")
    base = weight_digests(checkpoint)
    records = [_record(run, base) for run in runs]
    starts = [(record["recipe"]["seed"], record["recipe"]["rank"]) for record in records]
    for run, start in zip(runs, starts, strict=True):
        if start != starts[0]:
            raise CheckpointError(
                f"{run} began elsewhere",
                found="seed {}, rank {}".format(*start),
                expected="seed {}, rank {}, as in {}".format(*starts[0], runs[0]),
                remedy="average runs of recipes with the same seed and rank",
            )
    adapter = _averaged([read_adapter(run / ADAPTER)[0] for run in runs])
    head = _averaged([_head(run / VALUE_HEAD) for run in runs])
    with staged_directory(out, replace=replace) as folder:
        write_adapter(adapter, folder / ADAPTER, rank=starts[0][1])
        save_tensors(folder / VALUE_HEAD, head, {})
        (folder / CHECKPOINT).mkdir()
        merge(checkpoint, folder / ADAPTER, folder / CHECKPOINT)
        record = {
            "adapter": {**adapter_facts(folder / ADAPTER), "sha256": sha256_file(folder / ADAPTER)},
            "base": base,
            "command": "realign mean CHECKPOINT RUN... --out DIR",
            "runs": records,
            "sources": list(
                {canonical_json(source): source for record in records for source in record["sources"]}.values()
            ),
            "stage": "mean",
            "steps": sum(record["steps"] for record in records),
            "tools": tools(),
        }
        write_json(folder / RECORD, record)
    return record


def _record(run: Path, base: Mapping[str, str]) -> dict[str, Any]:
    file = run / RECORD
    record: dict[str, Any] = read_json(file) if file.is_file() else {}
    complete, stage = record.get("complete"), record.get("stage")
    if stage != "ppo" or not complete:
        raise CheckpointError(
            f"{run} is no finished run of L-PPO",
            found="no record" if not record else f"stage {stage}, {'' if complete else 'not '}complete",
            expected=f"the folder that `realign ppo` wrote, with its {RECORD}",
            remedy="finish it with `realign ppo --resume`, or give another folder",
        )
    if record["base"] != base:
        raise CheckpointError(
            f"{run} started from another checkpoint",
            found=", ".join(sorted(record["base"].values())),
            expected=", ".join(sorted(base.values())) or "weights in the checkpoint's folder, where there are none",
            remedy="give the checkpoint that all runs started from",
        )
    digest = sha256_file(run / ADAPTER) if (run / ADAPTER).is_file() else "no file"
    if digest != record["adapter"]["sha256"]:
        raise CheckpointError(
            f"the adapter in {run} is not the recorded one",
            found=digest,
            expected=record["adapter"]["sha256"],
            remedy="give the folder as `realign ppo` left it",
        )
    return record


def _head(file: Path) -> dict[str, Any]:
    failure = require("safetensors", "realign").SafetensorError
    try:
        tensors: dict[str, Any] = require("safetensors.torch", "realign").load_file(str(file))
    except (OSError, failure) as error:
        raise CheckpointError(
            f"{file} is no value head",
            found=str(error).splitlines()[0],
            expected="what `realign ppo` wrote",
            remedy="give the folder as `realign ppo` left it",
        ) from None
    return tensors


def _averaged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
