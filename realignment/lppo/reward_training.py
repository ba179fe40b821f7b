"""`realign reward`: a reward model, trained on preference pairs with a Bradley-Terry loss.

As in the paper (Bachu et al. 2025, section 3) it sees the text prompt and the answer, never the image. The paper's is
GPT-2 on HH-RLHF; ours is the first layers of the checkpoint's own decoder with a linear head, on pairs that are made
of the requests that all stages train on.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError, ConfigError
from jetson_runtime.files import read_json, sha256_file, staged_directory, write_json
from realignment.adapters import add, inject
from realignment.lessons import own_answers
from realignment.lppo.pairs import KINDS, Pair, Pairs
from realignment.lppo.rewards import ModelReward
from realignment.lppo.turns import Turns
from realignment.requests import Pool, read_pool
from realignment.supervised import Place, StageRecipe, open_place
from realignment.tensors import save_tensors
from realignment.towers import Towers
from realignment.training import Training, state_file
from refusal_suite.prompts import HARMFUL

__all__ = ["MODEL", "RewardPlan", "RewardStage", "Scorer", "bradley_terry", "pair_accuracy", "train_reward"]

MODEL = "model"
_HELD_OUT_PAIRS = 16
_BATCH = 32
# adapters.add takes a checkpoint's tensors by their names there.
_INNER = "model.language_model."
_LORA_SCALE = 2.0


@dataclass(frozen=True)
class RewardPlan:
    """`steps` steps of `pairs` preference pairs.

    The model is the decoder's first `layers` layers with LoRA of `rank`, and a full linear head. `max_new_tokens`
    bounds the checkpoint's own answers, some of which the pairs hold.
    """

    steps: int
    rank: int
    layers: int
    pairs: int
    max_new_tokens: int
    learning_rate: float
    warmup_steps: int
    measure_every: int


def bradley_terry(chosen: Any, rejected: Any) -> Any:
    """Mean of -log sigmoid(r_chosen - r_rejected): the preferences' likelihood (Bradley and Terry 1952)."""
    return -require("torch", "realign").nn.functional.logsigmoid(chosen - rejected).mean()


def pair_accuracy(
    score: Callable[[Sequence[Pair], Sequence[str]], Sequence[float]], pairs: Sequence[Pair]
) -> dict[str, float]:
    """By kind, the share of pairs whose preferred answer has the higher score."""
    chosen, rejected = score(pairs, [pair.chosen for pair in pairs]), score(pairs, [pair.rejected for pair in pairs])
    right: dict[str, list[bool]] = {}
    for pair, better, worse in zip(pairs, chosen, rejected, strict=True):
        right.setdefault(pair.kind, []).append(better > worse)
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


class Scorer:
    """A decoder's first layers as a sequence classifier with one logit; LoRA and head are what is trained.

    Raises:
        CheckpointError: transformers has no sequence classifier for this decoder.
    """

    def __init__(self, towers: Towers, layers: int, rank: int, seed: int) -> None:
        torch, transformers = require("torch", "realign"), require("transformers", "realign")
        config = copy.deepcopy(towers.model.config.text_config)
        config.num_hidden_layers, config.num_labels, config.dtype = layers, 1, "float16"
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
        self.turns = Turns(towers.processor.tokenizer, config)
        config.pad_token_id = self.turns.pad_token_id
        try:
            with torch.device("meta"):
                self.model = transformers.AutoModelForSequenceClassification.from_config(config)
        except ValueError as error:
            raise CheckpointError(
                f"the decoder of {towers.folder} can't be made a reward model",
                found=str(error).splitlines()[0],
                expected="a decoder that AutoModelForSequenceClassification knows",
            ) from None
        self.decoder, self.device = towers.decoder(layers), towers.model.device
        setattr(self.model, self.model.base_model_prefix, self.decoder)
        # A small random head: with zeros, LoRA would have no gradient in the first step.
        first = torch.randn(1, config.hidden_size, generator=torch.Generator().manual_seed(seed))
        self.model.score.weight = torch.nn.Parameter((first / (config.hidden_size + 1)).to(self.device))
        self.leaves = {**inject(self.decoder, rank, seed=seed), "score.weight": self.model.score.weight}

    def __call__(self, prompts: Sequence[str], answers: Sequence[str]) -> Any:
        """Scores, [answers]."""
        return self.model(**self.turns.batch(prompts, answers, self.device), use_cache=False).logits[:, 0]

    def scores(self, pairs: Sequence[Pair], answers: Sequence[str]) -> list[float]:
        """Scores of `answers` to the requests of `pairs`, without gradients."""
        found: list[float] = []
        with require("torch", "realign").no_grad():
            for start in range(0, len(pairs), _BATCH):
                batch = pairs[start : start + _BATCH]
                found += self([pair.asked.text for pair in batch], answers[start : start + _BATCH]).tolist()
        return found

    def write(self, folder: Path, spread: float) -> None:
        """Write the classifier as a float16 directory of its own, LoRA merged, its scores divided by `spread`.

        Raises:
            StorageError: it can't be written.
        """
        torch = require("torch", "realign")
        plain = {
            _INNER + name.replace(".base_layer.", "."): tensor
            for name, tensor in self.decoder.state_dict().items()
            if ".lora_" not in name
        }
        adapter = {name: leaf.detach() for name, leaf in self.leaves.items() if ".lora_" in name}
        merged = add(plain, adapter, _LORA_SCALE)
        prefix = self.model.base_model_prefix
        tensors = {f"{prefix}.{name.removeprefix(_INNER)}": tensor for name, tensor in merged.items()}
        tensors["score.weight"] = self.model.score.weight.detach() / spread
        halves = {name: tensor.to(torch.float16).cpu() for name, tensor in tensors.items()}
        with staged_directory(folder, replace=True) as place:
            save_tensors(place / "model.safetensors", halves, {"format": "pt"})
            self.model.config.architectures = [type(self.model).__name__]
            self.model.config.save_pretrained(place)
            self.turns.tokenizer.save_pretrained(place)


@dataclass(frozen=True)
class RewardStage:
    """The Bradley-Terry loss of the pairs that (seed, step) gives; measured by held-out pair accuracy of each kind."""

    plan: RewardPlan
    scorer: Scorer
    pairs: Pairs
    held: Sequence[Pair]
    seed: int
    name: str = "reward"

    @property
    def leaves(self) -> Mapping[str, Any]:
        """LoRA and head."""
        return self.scorer.leaves

    def loss(self, step: int) -> Any:
        """Mean over the step's pairs."""
        drawn = self.pairs.draw(self.plan.pairs, random.Random(f"{self.seed}:reward:{step}"))
        prompts = [pair.asked.text for pair in drawn]
        answers = [*(pair.chosen for pair in drawn), *(pair.rejected for pair in drawn)]
        chosen, rejected = self.scorer([*prompts, *prompts], answers).split(len(drawn))
        return bradley_terry(chosen, rejected)

    def held_out(self) -> dict[str, float]:
        """The share of held-out pairs in the right order, by kind."""
        return pair_accuracy(self.scorer.scores, self.held)


def train_reward(checkpoint: Path, recipe: StageRecipe, place: Place, *, resume: bool) -> dict[str, Any]:
    """Train a reward model on the decoder of `checkpoint`; write model directory, curve and record to `place.out`.

    Scores are divided by their spread over the held-out answers, so that they have the size of the rules' rewards;
    the pair accuracy in the record is that of the model as written. Returns the record.

    Raises:
        CheckpointError: no LLaVA checkpoint, or a saved state that belongs to another recipe or checkpoint.
        ConfigError: the recipe does not fit the checkpoint.
        InputError: training data are missing or are other ones. TrainingError: the loss is not a number.
        StorageError: `place.out` holds a training and `resume` is False, or can't be written.
    """
    plan, common = recipe.plan, recipe.common
    if not plan.pairs:
        raise ConfigError(f"{recipe.file}, reward: pairs is wrong", found=plan.pairs, expected="1 or more")
    pool = read_pool(common.sources, place.data, seed=common.seed)
    towers = Towers(checkpoint)
    towers.check_exits("decoder", [plan.layers])
    open_place(place, resume=resume)
    base = {file.name: sha256_file(file) for file in sorted(checkpoint.glob("*.safetensors"))}
    pairs = Pairs(pool, _own(towers, recipe, pool, base, place.out))
    held = pairs.held_out(_HELD_OUT_PAIRS, common.seed)
    stage = RewardStage(plan, Scorer(towers, plan.layers, plan.rank, common.seed), pairs, held, common.seed)
    training = Training(recipe, place.out, KINDS)
    steps = training.run(stage)
    spread = _spread(stage)
    stage.scorer.write(place.out / MODEL, spread)
    facts = {"base": base, "minutes": round(training.minutes, 1), "score_spread": spread, "steps": steps}
    return _record(recipe, place.out, facts, pool, held)


def _own(towers: Towers, recipe: StageRecipe, pool: Pool, base: Mapping[str, str], out: Path) -> dict[str, str]:
    """The checkpoint's own answers where pairs need them, computed once per training and kept beside its state."""
    file, belongs = out / "reward.answers.json", {"base": base, "recipe": recipe.sha256}
    kept: Mapping[str, Any] = read_json(file) if file.is_file() else {}
    odd = [name for name in belongs if kept.get(name) != belongs[name]]
    if odd and state_file(out, "reward").is_file():
        raise CheckpointError(
            f"{out} holds a training of another " + ("recipe" if "recipe" in odd else "checkpoint"),
            remedy="give the recipe and the checkpoint that it was started with, or another --out",
        )
    if odd:
        ask = [request for request in (*pool.train, *pool.held_out) if request.kind == HARMFUL or not request.answer]
        kept = {**belongs, "answers": own_answers(towers, ask, max_new_tokens=recipe.plan.max_new_tokens)}
        write_json(file, kept)
    own: dict[str, str] = kept["answers"]
    return own


def _spread(stage: RewardStage) -> float:
    """The standard deviation of the scores of held-out answers; 1 where all are the same."""
    answers = [*(pair.chosen for pair in stage.held), *(pair.rejected for pair in stage.held)]
    scores = require("torch", "realign").tensor(stage.scorer.scores([*stage.held, *stage.held], answers))
    return float(scores.std()) or 1.0


def _record(
    recipe: StageRecipe, out: Path, facts: Mapping[str, Any], pool: Pool, held: Sequence[Pair]
) -> dict[str, Any]:
    written = ModelReward(out / MODEL)

    def score(pairs: Sequence[Pair], answers: Sequence[str]) -> list[float]:
        return written([pair.asked for pair in pairs], answers, [True] * len(pairs))

    file = out / MODEL / "model.safetensors"
    record = {
        **facts,
        "command": f"realign reward CHECKPOINT --recipe {recipe.file} --data DIR --out DIR",
        "complete": facts["steps"] == recipe.plan.steps,
        "held_out_pairs": len(held),
        "held_out_requests": len(pool.held_out),
        "model": {"bytes": file.stat().st_size, "sha256": sha256_file(file)},
        "pair_accuracy": pair_accuracy(score, held),
        "recipe": {**asdict(recipe.plan), "seed": recipe.common.seed, "sha256": recipe.sha256},
        "sources": [dict(source) for source in pool.sources],
        "stage": "reward",
        "tools": {
            "python": sys.version.split()[0],
            **{name: require(name, "realign").__version__ for name in ("peft", "torch", "transformers")},
        },
        "train_requests": len(pool.train),
    }
    write_json(out / "record.json", record)
    return record
