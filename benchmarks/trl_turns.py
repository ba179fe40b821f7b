"""L-PPO and TRL's GRPO in turns on one model: the process that `realignment_speed` starts, alone with its threads.

Each turn is one iteration of ours, then one of TRL's, on the same requests. The clock of an iteration covers rollout,
rewards, reference, loss, backward pass and optimizer; within it, the rollout's own covers what makes tokens of tokens:
`say` here, `_generate_single_turn` there.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

from jetson_runtime.console import require
from realignment.adapters import inject
from realignment.lppo import rollout
from realignment.lppo.curriculum import TEXT_ALONE
from realignment.lppo.plan import PpoPlan
from realignment.lppo.rewards import Asked, RuleReward
from realignment.lppo.rollout import Group, World, say
from realignment.lppo.run import Lppo
from realignment.requests import read_pool
from realignment.scenes import Scenes
from realignment.supervised import RECIPE, read_stage
from realignment.towers import Towers
from refusal_suite.prompts import BENIGN, HARMFUL

accelerate, datasets, peft, torch, transformers, trl = (
    require(name, "realign") for name in ("accelerate", "datasets", "peft", "torch", "transformers", "trl")
)

SEED = 0
GENERATIONS = 2
LEARNING_RATE = 1e-6  # TRL's default for GRPO; so small that both keep the answers that they start with
TARGETS = r"(?!.*vision_tower).*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@dataclass(frozen=True)
class Turn:
    """One iteration: its answers, the tokens in them, and seconds."""

    answers: int
    tokens: int
    rollout_s: float
    update_s: float


@dataclass
class Clock:
    """Collects the iterations of one contender."""

    turns: list[Turn] = field(default_factory=list)
    answers: int = 0
    tokens: int = 0
    rollout_s: float = 0.0
    whole_s: float = 0.0

    def rollout(self, call: Callable[..., Any], lengths: Callable[[Any], list[int]]) -> Callable[..., Any]:
        """`call`, timed as rollout; `lengths` reads the answers' lengths from what it returns."""

        def timed(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            result = call(*given, **named)
            self.rollout_s += time.perf_counter() - start
            found = lengths(result)
            self.answers += len(found)
            self.tokens += sum(found)
            return result

        return timed

    def end(self) -> None:
        """The iteration is over."""
        self.turns.append(Turn(self.answers, self.tokens, self.rollout_s, self.whole_s - self.rollout_s))
        self.answers = self.tokens = 0
        self.rollout_s = self.whole_s = 0.0


class FixedGroups(Lppo):
    """L-PPO's loop on given requests at full depth, each asked as often as TRL's group has generations."""

    def groups(self, step: int) -> list[Group]:
        """All groups are about the same picture, or none."""
        scenes, towers = self.world.scenes, self.world.towers
        picture, vision = (0, towers.vision_exit) if len(scenes) else (None, TEXT_ALONE)
        count = self.plan.groups * self.plan.prompts // GENERATIONS
        asked = [one for one in asked_of(self.world, count, step) for _ in range(GENERATIONS)]
        return [
            Group(vision, towers.decoder_exit, picture, tuple(asked[number :: self.plan.groups]))
            for number in range(self.plan.groups)
        ]


def asked_of(world: World, count: int, step: int) -> list[Asked]:
    """The requests of an iteration: half of them harmful, by length as L-PPO's own groups."""
    chance = random.Random(f"{SEED}:{step}")
    drawn = [
        request
        for kind, share in ((HARMFUL, count // 2), (BENIGN, count - count // 2))
        for request in chance.sample(world.pool.of(kind), share)
    ]
    return sorted((Asked(one.id, one.text, one.kind) for one in drawn), key=lambda one: len(one.text))


@dataclass
class Match:
    """Both contenders on one machine: `ours` is called at the start of each of TRL's iterations."""

    checkpoint: Path
    plan: PpoPlan
    picture: Path | None
    folder: Path

    def run(self) -> dict[str, Any]:
        """All turns of both, the first of which is for warming up."""
        recipe = read_stage(RECIPE, "ppo", PpoPlan)
        towers = Towers(self.checkpoint)
        theirs = self._their_model(towers)
        scenes, features_s = self._scenes(towers)
        leaves = inject(towers.model.model.language_model, self.plan.rank, seed=SEED)
        head = torch.nn.Linear(towers.model.config.text_config.hidden_size, 1)
        torch.nn.init.zeros_(head.weight)
        world = World(towers, head, read_pool([], None), scenes, RuleReward())
        clocks = {"holdfast": Clock(), "trl": Clock()}
        vars(rollout)["say"] = clocks["holdfast"].rollout(
            say, lambda said: [len(one.tokens) for row in said for one in row]
        )
        trainer = self._trainer(theirs, world, clocks["trl"])
        # The trainer sets accelerate's state up; ours joins it.
        loop = FixedGroups(world, self.plan, recipe, leaves, SEED, self.folder, accelerate.Accelerator(cpu=True))
        optimizer = loop.optimizer()

        def ours(step: int) -> None:
            start = time.perf_counter()
            loop.iteration(step, optimizer)
            clocks["holdfast"].whole_s = time.perf_counter() - start
            clocks["holdfast"].end()

        trainer.add_callback(in_turns(ours, clocks["trl"], self.plan.epochs))
        trainer.train()
        return {
            "turns": {name: [asdict(turn) for turn in clock.turns[1:]] for name, clock in clocks.items()},
            "picture_features_s": features_s,
            "threads": torch.get_num_threads(),
            "trl": settings(trainer.args),
            "versions": {name: version(name) for name in ("torch", "transformers", "peft", "trl", "accelerate")},
        }

    def _their_model(self, towers: Towers) -> Any:
        if self.picture is not None:
            return Towers(self.checkpoint).model
        config = towers.model.config.text_config
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.model.load_state_dict(towers.model.model.language_model.state_dict())
        model.lm_head.load_state_dict(towers.model.lm_head.state_dict())
        model.generation_config.eos_token_id = sorted(towers.stop_tokens)
        return model

    def _scenes(self, towers: Towers) -> tuple[Scenes, float]:
        if self.picture is None:
            return Scenes({}, []), 0.0
        start = time.perf_counter()
        shown = towers.shown([Image.open(self.picture).convert("RGB")], [towers.vision_exit])
        return Scenes(shown, [[]]), time.perf_counter() - start

    def _trainer(self, model: Any, world: World, clock: Clock) -> Any:
        plan, towers = self.plan, world.towers
        answers = plan.groups * plan.prompts
        asked = [one for step in range(plan.steps) for one in asked_of(world, answers // GENERATIONS, step)]
        by_id = {one.id: one for one in asked}

        def reward(completions: Any, completion_ids: Any, request: Sequence[str], **_: Any) -> list[float]:
            texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
            finished = [ids[-1] in towers.stop_tokens for ids in completion_ids]
            return [float(one) for one in world.reward([by_id[id] for id in request], texts, finished)]

        processor = towers.processor if self.picture else towers.processor.tokenizer
        lora = peft.LoraConfig(
            r=plan.rank, lora_alpha=2 * plan.rank, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"
        )
        trainer = trl.GRPOTrainer(
            model=model,
            reward_funcs=reward,
            args=self._arguments(answers),
            train_dataset=datasets.Dataset.from_list([self._row(towers, one) for one in asked]),
            processing_class=processor,
            peft_config=lora,
        )
        values = sum(tensor.numel() for tensor in trainer.model.parameters() if tensor.requires_grad)
        check("adapter size", values, sum(tensor.numel() for tensor in self._own_adapter(world)))
        expected = [self._prompt(towers, one) for one in asked for _ in range(GENERATIONS)]
        generate = clock.rollout(trainer._generate_single_turn, lambda result: [len(ids) for ids in result[0]])

        def generate_checked(prompt_ids: Any, *given: Any, **named: Any) -> Any:
            start = len(clock.turns) * answers
            same = [list(ids) for ids in prompt_ids] == expected[start : start + answers]
            check("the prompts' tokens are ours", same, True)
            return generate(prompt_ids, *given, **named)

        trainer._generate_single_turn = generate_checked
        return trainer

    @staticmethod
    def _own_adapter(world: World) -> list[Any]:
        language = world.towers.model.model.language_model
        return [tensor for name, tensor in language.named_parameters() if ".lora_" in name]

    def _prompt(self, towers: Towers, one: Asked) -> list[int]:
        if self.picture is None:
            return towers.prompts.asked(one.text, image=False)
        return [*towers.prompts.prefix, *towers.prompts.asked(one.text)]

    def _row(self, towers: Towers, one: Asked) -> dict[str, Any]:
        if self.picture is None:
            return {"request": one.id, "prompt": towers.processor.tokenizer.decode(self._prompt(towers, one))}
        return {
            "request": one.id,
            "prompt": [{"role": "user", "content": one.text}],
            "image": Image.open(self.picture).convert("RGB"),
        }

    def _arguments(self, answers: int) -> Any:
        plan = self.plan
        return trl.GRPOConfig(
            output_dir=str(self.folder / "trl"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=answers,
            gradient_accumulation_steps=1,
            num_generations=GENERATIONS,
            num_iterations=plan.epochs,
            max_steps=plan.steps * plan.epochs,
            max_completion_length=plan.max_new_tokens,
            temperature=plan.temperature,
            epsilon=plan.clip,
            beta=plan.kl_weight,
            learning_rate=plan.learning_rate,
            shuffle_dataset=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            seed=SEED,
        )


def in_turns(ours: Callable[[int], None], clock: Clock, epochs: int) -> Any:
    """A callback of TRL's trainer: before each of its iterations one of ours, then its own clock runs."""

    class InTurns(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        start = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % epochs == 0:
                ours(state.global_step // epochs)
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            clock.whole_s += time.perf_counter() - self.start
            if state.global_step % epochs == 0:
                clock.end()

    return InTurns()


def settings(args: Any) -> dict[str, Any]:
    """What was set for TRL, and what it chose itself."""
    names = (
        *("per_device_train_batch_size", "num_generations", "num_iterations", "steps_per_generation", "beta"),
        *("max_completion_length", "temperature", "top_p", "top_k", "learning_rate", "max_grad_norm", "optim"),
        *("loss_type", "gradient_checkpointing", "bf16", "use_cpu", "use_vllm"),
    )
    return {"trainer": "GRPOTrainer", **{name: str(getattr(args, name)) for name in names}}


def check(what: str, found: object, expected: object) -> None:
    """Both must do the same work, or the comparison is worth nothing."""
    if found != expected:
        raise SystemExit(f"{what}: {found} in TRL's trainer, expected {expected}")


def main() -> int:
    """Measure; write the JSON report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trl_turns", description=main.__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--groups", type=int, required=True)
    parser.add_argument("--prompts", type=int, required=True, help="requests of a group, each asked twice in all")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, required=True, help="after one that does not count")
    parser.add_argument("--picture", type=Path)
    given = parser.parse_args()
    plan: PpoPlan = read_stage(RECIPE, "ppo", PpoPlan).plan
    plan = replace(
        plan,
        steps=given.rounds + 1,
        groups=given.groups,
        groups_per_step=given.groups,
        prompts=given.prompts,
        epochs=given.epochs,
        learning_rate=LEARNING_RATE,
        warmup_steps=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        found = Match(given.checkpoint, plan, given.picture, Path(folder)).run()
    given.out.write_text(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
