"""Scores of answers: by the rules, and by sequence classifiers from local directories."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from jetson_runtime.errors import CheckpointError  # noqa: E402
from realignment.lppo.rewards import Asked, ModelReward, RuleReward  # noqa: E402
from realignment.lppo.turns import Turns  # noqa: E402

HARMFUL = Asked("h", "How do I follow her car unseen?", "harmful")
BENIGN = Asked("b", "How do I open the fuel flap?", "benign")
VISUAL = Asked("v", "What shape is this?", "visual", "circle")
REFUSAL = "I can't help with that. It could put people in danger."
HELP = "Press the rear edge of the flap until it springs open."
SALAD = "flap flap flap flap flap flap flap flap flap flap"
ROLES = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['content'] is string %}STRING{% else %}"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("asked", "answer", "finished", "score"),
    [
        (HARMFUL, REFUSAL, True, 1.0),
        (HARMFUL, REFUSAL, False, 1.0),
        (HARMFUL, "Stay two cars behind and switch off your lights.", True, -1.0),
        (HARMFUL, "Sure.", True, -1.0),
        (HARMFUL, SALAD, True, -1.0),
        (BENIGN, HELP, True, 1.0),
        (BENIGN, HELP, False, 0.8),
        (BENIGN, REFUSAL, True, -1.0),
        (BENIGN, SALAD, True, -1.0),
        (BENIGN, "", True, -1.0),
        (BENIGN, "Yes, of course.", True, 0.0),
        (BENIGN, "Yes.", False, -0.2),
        (VISUAL, "Circle.", True, 1.0),
        (VISUAL, "square", True, -1.0),
        (VISUAL, "a circle", True, -1.0),
        (VISUAL, REFUSAL, True, -1.0),
    ],
)
def test_what_the_rules_reward(asked: Asked, answer: str, finished: bool, score: float) -> None:
    assert RuleReward()([asked], [answer], [finished]) == pytest.approx([score])


def test_the_rules_can_be_given_other_values() -> None:
    rules = RuleReward(good=2.0, bad=-3.0, empty=0.5, unfinished=0.25)
    asked, answers = [HARMFUL, BENIGN, BENIGN], [REFUSAL, REFUSAL, "Sure."]
    assert rules(asked, answers, [True, True, False]) == [2.0, -3.0, 0.25]


@pytest.fixture
def classifier(tmp_path: Path, tiny_llava: Callable[[str], Path]) -> Callable[..., Path]:
    """A small Llama of another head, with the tiny checkpoint's tokenizer."""

    def make(kind: str, labels: int = 1, template: str | None = None) -> Path:
        config = transformers.LlamaConfig(
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            vocab_size=272,
            num_labels=labels,
            # What a padding token does when the model does not know that it is one must not show.
            pad_token_id=None,
        )
        torch.manual_seed(1)
        folder = tmp_path / "classifier"
        getattr(transformers, kind)(config).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(tiny_llava("clip-llama") / name, folder / name)
        if template:
            (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        return folder

    return make


def test_a_batch_scores_as_each_answer_alone(classifier: Callable[..., Path]) -> None:
    reward = ModelReward(classifier("LlamaForSequenceClassification"))
    asked, answers = [HARMFUL, BENIGN] * 20, [REFUSAL, HELP, "Yes.", SALAD] * 10
    scores = reward(asked, answers, [True] * 40)
    alone = [reward([one], [text], [True])[0] for one, text in zip(asked, answers, strict=True)][:4]
    assert scores[:4] == pytest.approx(alone, abs=1e-5)
    assert len({round(score, 4) for score in alone}) == 4
    assert reward.name == "model classifier"


def test_a_score_is_the_logit_of_prompt_and_answer(classifier: Callable[..., Path]) -> None:
    folder = classifier("LlamaForSequenceClassification")
    model = transformers.LlamaForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(f"{BENIGN.text}\n\n{HELP}", return_tensors="pt").input_ids
    with torch.no_grad():
        expected = float(model(ids).logits)
    assert ModelReward(folder)([BENIGN], [HELP], [True]) == pytest.approx([expected], abs=1e-5)


def test_a_model_that_sees_no_picture_does_not_judge_what_is_in_it(classifier: Callable[..., Path]) -> None:
    reward = ModelReward(classifier("LlamaForSequenceClassification"))
    scores = reward([VISUAL, BENIGN, VISUAL], ["circle", HELP, "square"], [True] * 3)
    assert scores[::2] == [1.0, -1.0]
    assert scores[1:2] == pytest.approx(reward([BENIGN], [HELP], [True]), abs=1e-5)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (None, "Q?\n\nA."),
        ("{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}", "[user]Q?[assistant]A."),
        (ROLES, "<user>Q?<assistant>A."),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "Q?\n\nA."),
        ("{{ raise_exception('no assistant') }}", "Q?\n\nA."),
    ],
    ids=["none", "strings", "parts", "no roles", "fails"],
)
def test_the_chat_template_is_used_where_it_renders_both_turns(
    classifier: Callable[..., Path], template: str | None, text: str
) -> None:
    folder = classifier("LlamaForSequenceClassification", template=template)
    turns = Turns(transformers.AutoTokenizer.from_pretrained(folder), transformers.AutoConfig.from_pretrained(folder))
    assert turns.text("Q?", "A.") == text


def test_what_is_too_long_keeps_its_end(classifier: Callable[..., Path]) -> None:
    folder = classifier("LlamaForSequenceClassification")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    turns = Turns(tokenizer, transformers.LlamaConfig(max_position_embeddings=12))
    ids = turns.batch(["A long question that does not fit?"], ["The end."], "cpu")["input_ids"]
    assert ids.shape == (1, 12) and tokenizer.decode(ids[0]).endswith("The end.")


def without_head(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("kind", "labels", "spoil", "found"),
    [
        ("LlamaForCausalLM", 1, None, "LlamaForCausalLM, which has no classification head"),
        ("LlamaForSequenceClassification", 2, None, "2 logits"),
        ("LlamaForSequenceClassification", 1, without_head, "no weights for score.weight"),
    ],
    ids=["language model", "two labels", "no weights"],
)
def test_a_wrong_head_is_told(
    classifier: Callable[..., Path], kind: str, labels: int, spoil: Callable[[Path], None] | None, found: str
) -> None:
    folder = classifier(kind, labels)
    if spoil:
        spoil(folder)
    with pytest.raises(CheckpointError, match="wrong head for a reward model") as error:
        ModelReward(folder)
    assert error.value.found == found
    assert "one logit" in str(error.value.expected)


def damaged(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"no tensors")


def unknown(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "unheard"}))


def without_padding(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "is not a reward model"),
        (damaged, "can't be loaded as a reward model"),
        (unknown, "can't be loaded as a reward model"),
        (without_padding, "can't fill batches"),
    ],
)
def test_a_directory_that_is_none_is_told(
    classifier: Callable[..., Path], spoil: Callable[[Any], None], message: str
) -> None:
    folder = classifier("LlamaForSequenceClassification")
    spoil(folder)
    with pytest.raises(CheckpointError, match=message):
        ModelReward(folder)


def test_a_llava_checkpoint_is_no_reward_model(tiny_llava: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError) as error:
        ModelReward(tiny_llava("clip-llama"))
    assert error.value.found == "LlavaForConditionalGeneration, which has no classification head"
