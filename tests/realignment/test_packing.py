"""Packing several questions about a picture changes nothing about any of them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from realignment.answers import correct, decoder_states  # noqa: E402
from realignment.decoder import IMAGE_TOKEN_ID  # noqa: E402
from realignment.easy_vqa import Question  # noqa: E402
from realignment.packing import IGNORED, Prompts, pack, pick_image_tokens  # noqa: E402

VOCABULARY, WIDTH, IMAGE = 40, 24, 9
PREFIX = [1, 5, *[IMAGE_TOKEN_ID] * IMAGE]


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny random LLaVA in float64; only its decoder is asked."""
    torch.manual_seed(0)
    text = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    vision = transformers.Dinov2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE_TOKEN_ID)
    return transformers.LlavaForConditionalGeneration(config).double().eval().requires_grad_(False)


def segment(chance: random.Random) -> tuple[list[int], list[int]]:
    tokens = [chance.randrange(17, VOCABULARY) for _ in range(chance.randint(3, 8))]
    answer = chance.randint(1, 2)
    return tokens, [IGNORED] * (len(tokens) - answer) + [chance.randrange(17, VOCABULARY) for _ in range(answer)]


def plain_losses(model: Any, shown: Any, tokens: list[int], labels: list[int]) -> Any:
    """Losses of one question by itself, without our mask or positions."""
    ids = torch.tensor([[*PREFIX, *tokens]])
    embedded = model.get_input_embeddings()(ids)
    embedded = embedded.masked_scatter((ids == IMAGE_TOKEN_ID)[..., None], shown)
    logits = model(inputs_embeds=embedded).logits[0, len(PREFIX) :]
    return torch.nn.functional.cross_entropy(logits, torch.tensor(labels), reduction="none", ignore_index=IGNORED)


def test_packed_questions_have_the_losses_and_gradients_of_single_ones(model: Any) -> None:
    chance = random.Random(1)
    rows = [[segment(chance) for _ in range(count)] for count in (3, 1, 4)]
    shown = torch.randn(len(rows), IMAGE, WIDTH, dtype=torch.float64, requires_grad=True)
    packed = pack(PREFIX, rows, [range(len(PREFIX))] * len(rows))
    wanted = packed.labels != IGNORED
    logits = model.lm_head(decoder_states(model, packed, shown)[wanted])
    together = torch.nn.functional.cross_entropy(logits, packed.labels[wanted], reduction="none")
    alone = torch.cat([plain_losses(model, shown[b], *part) for b, row in enumerate(rows) for part in row])
    alone = alone[alone != 0]
    assert together.shape == alone.shape
    assert float((together - alone).detach().abs().max()) < 1e-8  # rotary angles are float32
    gradients = [torch.autograd.grad(losses.sum(), shown)[0] for losses in (together, alone)]
    assert float((gradients[0] - gradients[1]).abs().max()) < 1e-8


def test_a_question_does_not_see_another_one(model: Any) -> None:
    chance = random.Random(2)
    first, second, other = segment(chance), segment(chance), segment(chance)
    shown = torch.randn(1, IMAGE, WIDTH, dtype=torch.float64)
    states = []
    for neighbour in (first, other):
        packed = pack(PREFIX, [[neighbour, second]], [range(len(PREFIX))])
        states.append(decoder_states(model, packed, shown)[packed.segment == 2])
    assert float((states[0] - states[1]).abs().max()) < 1e-12


def test_tokens_keep_their_positions_when_image_tokens_are_left_out() -> None:
    prompts = SimpleNamespace(first_image_token=2, image_tokens=IMAGE)
    kept = pick_image_tokens(prompts, 4, torch.Generator().manual_seed(0))
    assert [PREFIX[i] for i in kept] == [1, 5, *[IMAGE_TOKEN_ID] * 4]
    packed = pack(PREFIX, [[([20, 21], [IGNORED, 22])]], [kept])
    assert packed.positions[0].tolist() == [*kept, len(PREFIX), len(PREFIX) + 1]
    assert packed.tokens[0].tolist() == [1, 5, *[IMAGE_TOKEN_ID] * 4, 20, 21]


def test_a_segment_is_the_chat_template_cut_after_the_image(reference: SimpleNamespace) -> None:
    tokenizer = reference.processor.tokenizer
    prompts = Prompts(reference.processor, IMAGE_TOKEN_ID, 256)
    tokens, labels = prompts.segment("what shape is present?", "triangle")
    asked = "<|im_start|>user\n<image>\nwhat shape is present?<|im_end|>\n<|im_start|>assistant\ntriangle<|im_end|>"
    whole = tokenizer.encode(asked.replace("<image>", "<image>" * 256))
    assert [*prompts.prefix, *tokens] == whole[:-1]
    assert prompts.prefix.count(IMAGE_TOKEN_ID) == 256
    assert [label for label in labels if label != IGNORED] == tokenizer.encode("triangle<|im_end|>")
    assert labels == [*[IGNORED] * (len(labels) - 3), *whole[-3:]]


def test_right_is_what_greedy_generation_says(reference: SimpleNamespace) -> None:
    """One pass over packed questions against transformers' own generate, question by question."""
    from PIL import Image, ImageDraw

    picture = Image.new("RGB", (64, 64), (240, 240, 250))
    ImageDraw.Draw(picture).ellipse((16, 16, 46, 46), fill=(255, 0, 0))
    texts = {"what color is the shape?": "red", "what shape is present?": "circle", "is there a red shape?": "yes"}
    pixels = reference.processor.image_processor(picture, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        shown = reference.model.model.get_image_features(
            pixels, vision_feature_layer=12, vision_feature_select_strategy="default"
        ).pooler_output[0]
    questions, expected = [], []
    for text, answer in texts.items():
        content = [{"type": "image"}, {"type": "text", "text": text}]
        prompt = reference.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
        inputs = reference.processor(images=picture, text=prompt, return_tensors="pt")
        ids = reference.model.generate(**inputs, max_new_tokens=6)[0, inputs["input_ids"].shape[1] :]
        said = reference.processor.decode(ids, skip_special_tokens=True)
        for claim in (answer, "blue"):
            questions.append(Question(0, text, claim))
            expected.append(said == claim)
    assert correct(reference.model, Prompts(reference.processor, IMAGE_TOKEN_ID, 256), shown, questions) == expected
    assert any(expected)
