"""`realign align` and `realign exits`: from a checkpoint and a recipe to an adapter and the next checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError, ConfigError, StorageError
from jetson_runtime.files import read_json, sha256_file, staged_directory, storage_errors, write_json
from realignment.adapters import adapter_facts, inject, merge, write_adapter
from realignment.curve import Curve
from realignment.lessons import Lessons, own_answers
from realignment.recipe import Exits, Mixture, checked, read_mapping, section_digest
from realignment.requests import Pool, Request, read_pool, refusals
from realignment.scenes import Scenes, training_scenes
from realignment.towers import Towers
from realignment.training import CURVE, Training, state_file
from realignment.tuning import Align, ExitTuning
from refusal_suite.judge import REFUSAL, judge
from refusal_suite.prompts import BENIGN, HARMFUL

__all__ = [
    "ADAPTER",
    "CHECKPOINT",
    "RECIPE",
    "RECORD",
    "Place",
    "StageRecipe",
    "finish",
    "open_place",
    "read_stage",
    "tools",
    "tune",
    "weight_digests",
]

RECIPE = Path(__file__).parent / "recipes" / "reference.yaml"
ADAPTER, CHECKPOINT, RECORD = "adapter.safetensors", "checkpoint", "record.json"
STAGES = ("align", "exits", "ppo", "reward")
PLANS: Mapping[str, type[Mixture]] = {"align": Mixture, "exits": Exits}
_SOURCE: Mapping[str, type[Any]] = {"file": str, "kind": str, "sha256": str, "limit": int}


@dataclass(frozen=True)
class Common:
    """What all stages of a recipe share; recipes/reference.yaml says what each entry is for."""

    seed: int
    max_minutes: float
    save_minutes: float
    asked_pictures: int
    drawn_pictures: int
    sources: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class StageRecipe:
    """One stage of a recipe: what all share, its own plan, the file's name, and the digest of all that matters.

    How long the stage may run and how often it saves do not: a training that was stopped may be prolonged.
    """

    common: Common
    plan: Any
    file: str
    sha256: str

    @property
    def max_minutes(self) -> float:
        """See Limits."""
        return self.common.max_minutes

    @property
    def save_minutes(self) -> float:
        """See Limits."""
        return self.common.save_minutes


def read_stage(file: Path, stage: str, plan: type[Any]) -> StageRecipe:
    """The part of a recipe that `stage` needs; other stages' parts are not looked at.

    Raises:
        ConfigError: it can't be read, or an entry is missing, unknown, of the wrong type or out of range.
    """
    value = read_mapping(file)
    if stage not in value:
        raise ConfigError(f"{file} has no part '{stage}'", found=", ".join(map(str, value)), expected=stage)
    shared = {name: entry for name, entry in value.items() if name not in STAGES}
    common: Common = checked(Common, shared, str(file))
    sources = common.sources if isinstance(common.sources, list) else [None]
    wrong = next((entry for entry in sources if not _is_source(entry)), ...)
    if wrong is not ...:
        raise ConfigError(f"{file}: sources is wrong", found=wrong, expected="a list of {file, kind, sha256, limit}")
    own = checked(plan, value[stage], f"{file}, {stage}")
    matters = {name: entry for name, entry in shared.items() if name not in ("max_minutes", "save_minutes")}
    return StageRecipe(common, own, file.name, section_digest(matters, value[stage]))


def _is_source(entry: object) -> bool:
    """Whether it names a file, and nothing unknown."""
    return (
        isinstance(entry, dict)
        and "file" in entry
        and entry.keys() <= _SOURCE.keys()
        and all(type(value) is _SOURCE[name] and value for name, value in entry.items())
        and entry.get("limit", 1) > 0
    )


@dataclass(frozen=True)
class Place:
    """Where a stage writes, and what it reads."""

    out: Path
    data: Path | None
    easy_vqa: Path


def open_place(place: Place, *, resume: bool) -> None:
    """Make the stage's folder.

    Raises:
        StorageError: it holds a training and `resume` is False, or can't be written.
    """
    if (place.out / CURVE).exists() and not resume:
        raise StorageError(
            f"{place.out} holds a training",
            expected="a new place",
            remedy="add --resume to go on with it, or choose another",
        )
    with storage_errors(place.out):
        place.out.mkdir(parents=True, exist_ok=True)


def tune(stage: str, checkpoint: Path, recipe: StageRecipe, place: Place, *, resume: bool) -> dict[str, Any]:
    """Run "align" or "exits" on `checkpoint`; write adapter, merged checkpoint, curve and record to `place.out`.

    Returns the record.

    Raises:
        CheckpointError: no LLaVA checkpoint, or a saved state that belongs to another recipe or checkpoint.
        ConfigError: the recipe does not fit the checkpoint.
        InputError: training data are missing or are other ones. TrainingError: the loss is not a number.
        StorageError: `place.out` holds a training and `resume` is False, or can't be written.
    """
    open_place(place, resume=resume)
    towers, common, plan = Towers(checkpoint), recipe.common, recipe.plan
    _check_plan(towers, recipe)
    pool = read_pool(common.sources, place.data, seed=common.seed)
    answers = _taught(stage, towers, recipe, pool, place.out)
    lessons = Lessons(towers, _answerable(pool, answers), _scenes(towers, recipe, place), answers)
    leaves = inject(towers.model.model.language_model, plan.rank, seed=common.seed)
    made: Align | ExitTuning
    if isinstance(plan, Exits):
        made = ExitTuning(plan, lessons, leaves, common.seed)
    else:
        made = Align(plan, lessons, leaves, common.seed)
    training = Training(recipe, place.out, made.measures)
    steps = training.run(made)
    facts = {"minutes": training.minutes, "steps": steps}
    return finish(stage, checkpoint, recipe, place, leaves, facts, lessons.pool)


def _check_plan(towers: Towers, recipe: StageRecipe) -> None:
    plan, pictures = recipe.plan, recipe.common.asked_pictures + recipe.common.drawn_pictures
    if plan.rows > pictures:
        raise ConfigError(
            f"{recipe.file}: too few pictures",
            found=pictures,
            expected=f"one for each of the {plan.rows} rows of a step",
        )
    if isinstance(plan, Exits):
        exits = towers.check_exits("decoder", plan.exits)
        if exits[-1] == towers.decoder_exit or plan.exits_per_step > len(exits):
            raise ConfigError(
                f"{recipe.file}: these exits can't be trained",
                found=f"{list(plan.exits)}, {plan.exits_per_step} per step",
                expected=f"exits before {towers.decoder_exit}, which is always trained, at least as many as per step",
            )


def finish(
    stage: str,
    checkpoint: Path,
    recipe: StageRecipe,
    place: Place,
    leaves: Mapping[str, Any],
    facts: Mapping[str, Any],
    pool: Pool,
) -> dict[str, Any]:
    """Write the adapter, the checkpoint with the adapter merged, and the record of how they came about."""
    file = place.out / ADAPTER
    write_adapter(leaves, file, rank=recipe.plan.rank)
    with staged_directory(place.out / CHECKPOINT, replace=True) as folder:
        merge(checkpoint, file, folder)
    record = {
        "adapter": {**adapter_facts(file), "sha256": sha256_file(file)},
        "base": weight_digests(checkpoint),
        "command": f"realign {stage} CHECKPOINT --recipe {recipe.file} --data DIR --out DIR",
        **{name: value for name, value in facts.items() if name not in ("minutes", "steps")},
        "complete": facts["steps"] == recipe.plan.steps,
        "held_out_requests": len(pool.held_out),
        "last_held_out": _last_held_out(place.out / CURVE, stage),
        "minutes": round(facts["minutes"], 1),
        "recipe": {**asdict(recipe.plan), "seed": recipe.common.seed, "sha256": recipe.sha256},
        "sources": [dict(source) for source in pool.sources],
        "stage": stage,
        "steps": facts["steps"],
        "tools": tools(),
        "train_requests": len(pool.train),
    }
    write_json(place.out / RECORD, record)
    return record


def tools() -> dict[str, str]:
    """The versions of what a training was made with."""
    versions = {name: require(name, "realign").__version__ for name in ("peft", "torch", "transformers")}
    return {**versions, "python": sys.version.split()[0]}


def weight_digests(checkpoint: Path) -> dict[str, str]:
    """The digests of a checkpoint's weight files, by name."""
    return {file.name: sha256_file(file) for file in sorted(checkpoint.glob("*.safetensors"))}


def _last_held_out(curve: Path, stage: str) -> dict[str, float]:
    """The last measured losses by name, and the step after which they were measured."""
    start = "held-out "
    for row in reversed(Curve(curve, ()).rows()):
        found = {name.removeprefix(start): float(v) for name, v in row.items() if name.startswith(start) and v}
        if row["stage"] == stage and found:
            return {"step": int(row["step"]), **found}
    return {}


def _scenes(towers: Towers, recipe: StageRecipe, place: Place) -> Scenes:
    common = recipe.common
    return training_scenes(
        towers,
        place.easy_vqa,
        asked=common.asked_pictures,
        plain=common.drawn_pictures,
        exits=[towers.vision_exit],
        seed=common.seed,
    )


def _taught(stage: str, towers: Towers, recipe: StageRecipe, pool: Pool, out: Path) -> dict[str, list[str]]:
    """Answers by id. The checkpoint's own are computed once per training and kept beside its state."""
    requests = [*pool.train, *pool.held_out]
    align = stage == "align"
    file, belongs = out / f"{stage}.answers.json", {"base": weight_digests(towers.folder), "recipe": recipe.sha256}
    kept: Mapping[str, Any] = read_json(file) if file.is_file() else {}
    odd = [name for name in belongs if kept.get(name) != belongs[name]]
    if odd and state_file(out, stage).is_file():
        raise CheckpointError(
            f"{out} holds a training of another " + ("recipe" if "recipe" in odd else "checkpoint"),
            remedy="give the recipe and the checkpoint that it was started with, or another --out",
        )
    if odd:
        ask = [r for r in requests if not align or (r.kind == BENIGN and r.answer is None)]
        kept = {**belongs, "answers": own_answers(towers, ask, max_new_tokens=recipe.plan.max_new_tokens)}
        write_json(file, kept)
    own: Mapping[str, str] = kept["answers"]
    return {request.id: given for request in requests if (given := _answers(request, own.get(request.id), align))}


def _answers(request: Request, own: str | None, align: bool) -> list[str]:
    if request.kind == HARMFUL:
        # What full depth says teaches an exit; where it fails to refuse, it is no example.
        refused = own is not None and judge(own, request.text).label == REFUSAL
        return [own] if own is not None and refused and not align else refusals()
    if align and request.answer:
        return [request.answer]
    return [own] if own else [request.answer] if request.answer else []


def _answerable(pool: Pool, answers: Mapping[str, Sequence[str]]) -> Pool:
    def kept(requests: Sequence[Request]) -> tuple[Request, ...]:
        return tuple(request for request in requests if request.id in answers)

    return Pool(kept(pool.train), kept(pool.held_out), pool.sources)
