"""`realign reward`: preference pairs, the Bradley-Terry loss, and a model that `ModelReward` loads."""

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

from jetson_runtime.files import sha256_file  # noqa: E402
from realignment.cli import main  # noqa: E402
from realignment.lppo import reward_training  # noqa: E402
from realignment.lppo.pairs import KINDS, Pairs  # noqa: E402
from realignment.lppo.reward_training import RewardPlan, RewardStage, Scorer, bradley_terry, pair_accuracy  # noqa: E402
from realignment.lppo.rewards import ModelReward  # noqa: E402
from realignment.requests import Pool, read_pool, refusals  # noqa: E402
from realignment.supervised import RECIPE  # noqa: E402
from realignment.towers import Towers  # noqa: E402
from refusal_suite.judge import COMPLIANCE, judge  # noqa: E402

SMALL = {"steps": 2, "rank": 2, "layers": 2, "pairs": 2, "max_new_tokens": 2, "measure_every": 2}


def test_the_loss_by_hand() -> None:
    chosen, rejected = torch.tensor([1.5, 0.0, -2.0]), torch.tensor([0.5, 0.0, 1.0])
    expected = sum(math.log(1 + math.exp(-difference)) for difference in (1.0, 0.0, -3.0)) / 3
    assert float(bradley_terry(chosen, rejected)) == pytest.approx(expected)
    assert float(bradley_terry(chosen + 7, rejected + 7)) == pytest.approx(expected)


@pytest.fixture(scope="module")
def pool() -> Pool:
    return read_pool([], None)


@pytest.fixture(scope="module")
def own(pool: Pool) -> dict[str, str]:
    """The checkpoint's own answers to harmful requests: it complies, refuses, or babbles."""
    said = ("Stay close behind and keep your lights off.", "I'm sorry, but I can't help with that.", "the the the the")
    harmful = [*pool.of("harmful"), *pool.of("harmful", held_out=True)]
    return {request.id: said[number % 3] for number, request in enumerate(harmful)}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_pairs_prefer_what_they_should(pool: Pool, own: dict[str, str], seed: int) -> None:
    pairs = Pairs(pool, own).draw(40, random.Random(seed))
    texts = {request.id: request for request in pool.train}
    for pair in pairs:
        kind, wrong = pair.kind.split()
        request = texts[pair.asked.id]
        assert (pair.asked.text, pair.asked.kind, kind) == (request.text, request.kind, request.kind)
        assert pair.chosen != pair.rejected
        verdict = judge(pair.rejected, request.text).label
        if kind == "harmful":
            assert pair.chosen in refusals() or pair.chosen == own[request.id]
            assert pair.chosen not in refusals()[::5] and judge(pair.chosen, request.text).label == "refusal"
        else:
            assert pair.chosen == request.answer and len(pair.chosen.split()) > 3
        if wrong == "salad":
            assert {*pair.rejected.split()} <= {*pair.chosen.split()}
        elif wrong == "refused":
            assert verdict == "refusal"
        elif wrong == "empty":
            assert verdict == COMPLIANCE and len(pair.rejected.split()) <= 7
        else:
            assert pair.rejected != request.answer and judge(pair.rejected).label != "refusal"


def test_harmful_requests_are_answered_by_the_checkpoint_itself_by_their_twins_and_by_others(
    pool: Pool, own: dict[str, str]
) -> None:
    twins = {harmful.id: benign.answer for harmful, benign in pool.pairs()}
    pairs = [one for one in Pairs(pool, own).draw(600, random.Random(0)) if one.kind == "harmful answered"]
    by_itself = sum(own[pair.asked.id] == pair.rejected for pair in pairs)
    by_twin = sum(twins[pair.asked.id] == pair.rejected for pair in pairs)
    assert min(by_itself, by_twin, len(pairs) - by_itself - by_twin) > 10
    assert all(judge(own[pair.asked.id]).label == COMPLIANCE for pair in pairs if pair.rejected == own[pair.asked.id])
    assert any(pair.chosen == own[pair.asked.id] for pair in pairs)
    assert {pair.kind for pair in Pairs(pool, own).draw(200, random.Random(0))} == {*KINDS}


def test_held_out_pairs_share_no_request_and_no_refusal_with_training(pool: Pool) -> None:
    pairs = Pairs(pool, {})
    held, trained = pairs.held_out(6, seed=4), pairs.draw(2000, random.Random(0))
    assert [pair.kind for pair in held] == [kind for kind in KINDS for _ in range(6)]
    assert held == Pairs(pool, {}).held_out(6, seed=4) != pairs.held_out(6, seed=5)
    assert {pair.asked.id for pair in held} <= {request.id for request in pool.held_out}
    assert not {pair.asked.id for pair in trained} & {request.id for request in pool.held_out}
    said = {text for pair in trained for text in (pair.chosen, pair.rejected)}
    refused = [pair.rejected for pair in held if pair.kind == "benign refused"]
    assert {*refused, *(pair.chosen for pair in held if pair.asked.kind == "harmful")} <= {*refusals()} - said


@pytest.fixture
def stage(tiny_llava: Callable[[str], Path], tmp_path: Path, pool: Pool) -> RewardStage:
    """A toy: the tiny checkpoint, with room for an exchange."""
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_llava("clip-llama"), checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 96
    (checkpoint / "config.json").write_text(json.dumps(config))
    plan = RewardPlan(40, 4, 2, 8, 2, 0.003, 5, 40)
    pairs = Pairs(pool, {})
    scorer = Scorer(Towers(checkpoint), plan.layers, plan.rank, 0)
    return RewardStage(plan, scorer, pairs, pairs.held_out(8, 0), 0)


def test_training_raises_held_out_pair_accuracy_and_the_written_model_has_it(
    stage: RewardStage, tmp_path: Path
) -> None:
    before, first = stage.held_out(), stage.loss(0)
    assert float(first.detach()) == pytest.approx(math.log(2), abs=0.05)
    optimizer = torch.optim.AdamW(list(stage.leaves.values()), stage.plan.learning_rate)
    for step in range(stage.plan.steps):
        optimizer.zero_grad()
        stage.loss(step).backward()
        optimizer.step()
    after = stage.held_out()
    # A byte-level toy learns what an answer looks like, not what was asked.
    easy = [kind for kind in KINDS if kind.endswith(("empty", "salad"))]
    assert sum(after.values()) / len(after) > sum(before.values()) / len(before) + 0.2
    assert sum(after[kind] for kind in easy) / len(easy) > 0.85
    stage.scorer.write(tmp_path / "model", spread=2.0)
    written = ModelReward(tmp_path / "model")
    answers = [pair.chosen for pair in stage.held]
    scores = written([pair.asked for pair in stage.held], answers, [True] * len(answers))
    trained = stage.scorer.scores(stage.held, answers)
    assert scores == pytest.approx([score / 2 for score in trained], abs=0.03)
    assert max(trained) - min(trained) > 0.5


def test_every_step_draws_its_own_pairs(stage: RewardStage) -> None:
    with torch.no_grad():
        assert float(stage.loss(3)) == float(stage.loss(3)) != float(stage.loss(4))


def test_only_lora_and_the_head_are_trained(stage: RewardStage) -> None:
    stage.loss(0).backward()
    names = {name for name, tensor in stage.scorer.model.named_parameters() if tensor.requires_grad}
    assert len(names) == len(stage.leaves) == 2 * 7 * 2 + 1
    assert all(".lora_" in name or name == "score.weight" for name in names)


def test_a_tie_is_not_right(stage: RewardStage) -> None:
    assert set(pair_accuracy(lambda pairs, answers: [0.0] * len(pairs), stage.held).values()) == {0.0}


@pytest.fixture
def run(
    tmp_path: Path, pool: Pool, tiny_llava: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`run(steps=3)` is the exit code of `realign reward` on the tiny checkpoint, with that plan."""
    few = Pool(pool.train[:30], pool.held_out[:12], pool.sources)

    def call(
        *options: str, sources: Any = (), checkpoint: str = "clip-llama", max_minutes: float = 5, **plan: Any
    ) -> int:
        if not sources:
            monkeypatch.setattr(reward_training, "read_pool", lambda sources, folder, seed: few)
        value = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
        value |= {"sources": [*sources], "max_minutes": max_minutes}
        value["reward"] |= {**SMALL, **plan}
        (tmp_path / "small.yaml").write_text(yaml.safe_dump(value), encoding="utf-8")
        command = ["reward", str(tiny_llava(checkpoint)), "--recipe", str(tmp_path / "small.yaml")]
        return main([*command, "--out", str(tmp_path / "out"), *options])

    return call


def test_the_command_gives_a_model_and_says_how(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--json") == 0
    record, out = json.loads(capsys.readouterr().out), tmp_path / "out"
    assert record == json.loads((out / "record.json").read_text())
    assert (record["stage"], record["steps"], record["complete"]) == ("reward", 2, True)
    assert sorted(record["pair_accuracy"]) == sorted(KINDS) and record["held_out_pairs"] == 16 * len(KINDS)
    assert record["model"]["sha256"] == sha256_file(out / "model" / "model.safetensors")
    assert str(tmp_path) not in json.dumps(record)
    columns = (out / "curve.csv").read_text().splitlines()[0]
    assert all(f"held-out {kind}" in columns for kind in KINDS)
    # Scores have the size of the rules' rewards.
    assert 0 < record["score_spread"] < 10
    assert (out / "model" / "chat_template.jinja").is_file()
    assert json.loads((out / "model" / "config.json").read_text())["num_hidden_layers"] == 2


def test_a_stopped_training_goes_on_as_it_would_have(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    file = tmp_path / "out" / "model" / "model.safetensors"
    unbroken = sha256_file(file)
    assert run() == 6
    assert "add --resume" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "out")
    assert run(max_minutes=0) == 0
    assert "raise its max_minutes and add --resume" in capsys.readouterr().out
    assert sha256_file(file) != unbroken
    assert run("--resume") == 0
    assert sha256_file(file) == unbroken
    assert run("--resume", rank=3) == 3
    assert "a training of another recipe" in capsys.readouterr().err
    assert run("--resume", checkpoint="dinov2-llama") == 3
    assert "a training of another checkpoint" in capsys.readouterr().err


def test_other_decoders_have_reward_models_too(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(checkpoint="clip-qwen2", steps=1) == 0
    assert json.loads((tmp_path / "out" / "model" / "config.json").read_text())["architectures"] == [
        "Qwen2ForSequenceClassification"
    ]


@pytest.mark.parametrize(
    ("plan", "code", "message"),
    [
        ({"layers": 5}, 2, "exits from 1 to 4"),
        ({"layers": 0}, 2, "exits from 1 to 4"),
        ({"pairs": 0}, 2, "pairs is wrong"),
        ({"learning_rate": 1e30}, 5, "is not a number"),
    ],
)
def test_a_plan_that_does_not_fit_is_told(
    run: Callable[..., int], plan: dict[str, Any], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(**{"steps": 4, **plan}) == code
    assert message in capsys.readouterr().err


def test_a_data_file_without_its_column_is_told(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "more.csv").write_text("id,request\n1,How do I get there?\n", encoding="utf-8")
    assert run("--data", str(tmp_path), sources=[{"file": "more.csv", "kind": "benign"}]) == 2
    error = capsys.readouterr().err
    assert "column" in error and "more.csv" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_told(
    run: Callable[..., int], tmp_path: Path, full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with full_disk():
        assert run() == 6
    assert "can't be written" in capsys.readouterr().err
    assert not (tmp_path / "out" / "model").exists()
