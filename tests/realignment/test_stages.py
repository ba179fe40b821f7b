"""What the stages train, on a tiny model: only their own tensors, on the pictures they may see."""

from __future__ import annotations

import dataclasses
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from realignment.decoder import IMAGE_TOKEN_ID  # noqa: E402
from realignment.easy_vqa import COLOURS, KINDS, SHAPES, Question, sample_per_image  # noqa: E402
from realignment.packing import Prompts  # noqa: E402
from realignment.pictures import variant  # noqa: E402
from realignment.projector import initial_projector  # noqa: E402
from realignment.recipe import PROJECTOR_RECIPE, read_recipe  # noqa: E402
from realignment.stages import Material, Regression, Tuning, Words  # noqa: E402
from realignment.whitening import fit_whitening, fold  # noqa: E402
from realignment.words import SoftWords, known_words  # noqa: E402

PICTURES = 40


class Seen:
    """Features that remember which pictures were read."""

    def __init__(self, array: np.ndarray) -> None:
        self.array, self.asked = array, set[int]()

    def __getitem__(self, number: int) -> np.ndarray:
        self.asked.add(number)
        return self.array[number]


@pytest.fixture
def material(reference: SimpleNamespace) -> Material:
    """Forty pictures of one feature per colour and shape, and a one-layer decoder with the real vocabulary."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**reference.model.config.text_config.to_dict(), "num_hidden_layers": 1})
    decoder = transformers.LlamaModel(config)
    head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    head.weight = decoder.embed_tokens.weight
    for weight in decoder.parameters():
        weight.requires_grad_(False)
    model = SimpleNamespace(
        model=SimpleNamespace(language_model=decoder),
        lm_head=head,
        get_input_embeddings=lambda: decoder.embed_tokens,
        config=SimpleNamespace(image_token_id=IMAGE_TOKEN_ID),
    )
    chance, known, questions = random.Random(0), {}, []
    signs = torch.randn(11, 384).numpy()
    features = np.zeros((PICTURES, 256, 384), np.float16)
    for number in range(PICTURES):
        colour, shape = chance.randrange(8), chance.randrange(3)
        known[number] = (colour, shape)
        features[number] = (
            signs[colour] + signs[8 + shape] + 0.1 * np.random.default_rng(number).normal(size=(256, 384))
        )
        questions.append(
            [
                Question(number, "what color is the shape?", COLOURS[colour]),
                Question(number, "what shape is present?", SHAPES[shape]),
                Question(number, f"is there a {COLOURS[colour]} shape?", "yes"),
            ]
        )
    recipe = read_recipe(PROJECTOR_RECIPE)
    recipe = dataclasses.replace(
        recipe,
        train_pictures=30,
        held_out_pictures=10,
        words=dataclasses.replace(recipe.words, pictures=3, questions=3, image_tokens=(4, 6)),
        regression=dataclasses.replace(recipe.regression, pictures=8),
        tuning=dataclasses.replace(recipe.tuning, pictures=2, questions=3, image_tokens=(8,)),
    )
    whitening = fit_whitening(torch.from_numpy(features[:, ::16].astype(np.float32).reshape(-1, 384)), 0.05)
    prompts = Prompts(reference.processor, IMAGE_TOKEN_ID, 256)
    return Material(recipe, model, prompts, Seen(features), whitening, questions, known)


def projector(seed: int = 0) -> Any:
    config = transformers.LlavaConfig(
        vision_config=transformers.Dinov2Config(hidden_size=384), text_config=transformers.LlamaConfig(hidden_size=576)
    )
    module = transformers.models.llava.modeling_llava.LlavaMultiModalProjector(config)
    module.load_state_dict(initial_projector(seed, 0.13))
    return module


def stage_of(name: str, material: Material, reference: SimpleNamespace) -> Any:
    words = SoftWords(material.model, reference.processor.tokenizer)
    stages = {
        "words": lambda: Words(material, words, long=False),
        "regression": lambda: Regression(material, words, projector()),
        "tuning": lambda: Tuning(material, projector(), again=False),
    }
    return stages[name]()


@pytest.mark.parametrize("name", ["words", "regression", "tuning"])
def test_a_stage_repeats_itself_and_trains_its_own_tensors_only(
    name: str, material: Material, reference: SimpleNamespace
) -> None:
    stage = stage_of(name, material, reference)
    losses = [stage.loss(step) for step in (3, 3, 4)]
    assert losses[0].item() == losses[1].item() != losses[2].item()
    losses[0].backward()
    assert all(float(leaf.grad.abs().sum()) > 0 for leaf in stage.leaves.values())
    assert all(weight.grad is None for weight in material.model.model.language_model.parameters())


@pytest.mark.parametrize("name", ["regression", "tuning"])
def test_held_out_pictures_are_never_trained_on(name: str, material: Material, reference: SimpleNamespace) -> None:
    stage = stage_of(name, material, reference)
    for step in range(12):
        stage.loss(step)
    assert max(material.features.asked) < 30
    material.features.asked.clear()
    shares = stage.held_out()
    assert material.features.asked == set(range(30, 40))
    assert set(shares) == set(KINDS)


def test_regression_brings_the_projector_to_the_words(material: Material, reference: SimpleNamespace) -> None:
    stage = stage_of("regression", material, reference)
    optimizer = torch.optim.AdamW(list(stage.leaves.values()), 1e-3, weight_decay=0)
    first = float(stage.loss(0).detach())
    for step in range(60):
        optimizer.zero_grad()
        stage.loss(step).backward()
        optimizer.step()
    assert float(stage.loss(0).detach()) < 0.2 * first


def test_the_initial_projector_speaks_at_the_scale_of_the_text() -> None:
    shown = projector(5)(torch.randn(512, 384))
    assert float(shown.detach().pow(2).mean().sqrt()) == pytest.approx(0.13, rel=0.05)


def test_folding_the_whitening_in_changes_nothing() -> None:
    torch.manual_seed(0)
    features = torch.randn(2000, 384, dtype=torch.float64) * torch.logspace(0, -3, 384) + 3
    whitening = fit_whitening(features, 1e-4)
    module = projector().double()
    expected = module(whitening.apply(features))
    module.load_state_dict(fold(module.state_dict(), whitening))
    assert float((module(features) - expected).detach().abs().max()) < 1e-9
    white = whitening.apply(features)
    assert float(white.mean(0).abs().max()) < 1e-6
    assert white.var(0)[:20].tolist() == pytest.approx([1] * 20, abs=0.01)


@pytest.mark.parametrize(
    ("questions", "expected"),
    [
        ([("what is the blue shape?", "rectangle")], (1, 1)),
        ([("what color is the circle?", "teal")], (6, 0)),
        ([("what color is the shape?", "red"), ("what shape is present?", "triangle")], (5, 2)),
        ([("what color is the shape?", "red"), ("is there a triangle?", "yes")], None),
        ([("is a red shape present?", "no")], None),
    ],
)
def test_words_are_known_from_what_questions_take_for_granted(
    questions: list[tuple[str, str]], expected: tuple[int, int] | None
) -> None:
    assert known_words([Question(0, text, answer) for text, answer in questions]) == expected


def test_questions_are_drawn_kind_by_kind() -> None:
    many = [Question(0, f"is there a {n}?", "no") for n in range(9)]
    asked = [*many, Question(0, "what color is the shape?", "red"), Question(0, "what shape is present?", "circle")]
    drawn = sample_per_image(asked, 6, random.Random(0))
    assert [sum(q.kind == kind for q in drawn) for kind in KINDS] == [1, 1, 4]
    assert len({q.text for q in drawn}) == 6


def test_a_variant_shows_the_same_shape_in_the_same_colour() -> None:
    from PIL import Image, ImageDraw

    original = Image.new("RGB", (64, 64), (250, 240, 245))
    ImageDraw.Draw(original).rectangle((40, 5, 49, 24), fill=(0, 128, 128))
    for seed in range(20):
        drawn = np.asarray(variant(original, random.Random(seed)))
        assert drawn.shape == (224, 224, 3)
        teal = (np.abs(drawn.astype(int) - (0, 128, 128)).sum(axis=2) == 0).nonzero()
        height, width = (int(axis.max() - axis.min()) + 1 for axis in teal)
        assert height / width == pytest.approx(2, rel=0.1)
        assert 0.2 < height / 224 < 0.82
        assert len(teal[0]) == pytest.approx(height * width, rel=0.02)
