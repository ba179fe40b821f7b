"""Batched answers are those that transformers gives to one prompt at a time."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402

from engine_builder.reference import Reference, drawn_picture  # noqa: E402
from jetson_runtime.errors import CheckpointError  # noqa: E402
from jetson_runtime.ladder import Depth  # noqa: E402
from realignment import answering  # noqa: E402
from realignment.answering import Said, answer_batch  # noqa: E402
from realignment.towers import Towers  # noqa: E402

TEXTS = ("Hi.", "What is in the picture?", "Why?", "Say the colour.")
TOKENS = 9


@pytest.fixture(scope="module")
def folder(tiny_llava: Callable[[str], Path]) -> Path:
    return tiny_llava("clip-llama")


@pytest.fixture(scope="module")
def towers(folder: Path) -> Towers:
    return Towers(folder)


@pytest.fixture(scope="module")
def images() -> list[bytes]:
    """Two pictures as PNG."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(drawn_picture())).transpose(Image.Transpose.ROTATE_180).save(buffer, "PNG")
    return [drawn_picture(), buffer.getvalue()]


def batch(
    towers: Towers, exit: int, texts: Sequence[Sequence[str]], images: Sequence[bytes] | None, **changes: Any
) -> list[list[Said]]:
    """Answers to rows of texts, each about its own picture, at vision exit 2."""
    shown = None
    if images is not None:
        shown = towers.shown([Image.open(io.BytesIO(image)).convert("RGB") for image in images], [2])[2]
    asked = [[towers.prompts.asked(text, image=images is not None) for text in row] for row in texts]
    return answer_batch(towers, exit, asked, shown, **{"max_new_tokens": TOKENS, **changes})


@pytest.mark.parametrize("exit", [2, 4])
@pytest.mark.parametrize("pictured", [True, False], ids=["picture", "text"])
def test_answers_are_those_of_generate(
    exit: int, pictured: bool, towers: Towers, folder: Path, images: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, expected, first = Reference(folder), [], []
    for image in images if pictured else [None]:
        for text in TEXTS:
            logits, tokens = reference.answer(Depth("d", 2, exit), text, image, TOKENS)
            expected.append(tokens)
            first.append(torch.tensor(logits).log_softmax(-1).max())
    # A token that ends some answers early, one of them at least in the middle, and others not.
    ends = [{n for n, tokens in enumerate(expected) if stop in tokens} for stop in range(272)]
    stop = max(range(272), key=lambda token: (0 < len(ends[token]) < len(expected), len(ends[token])))
    assert 0 < len(ends[stop]) < len(expected)
    monkeypatch.setattr(towers, "stop_tokens", frozenset({stop}))
    cut = [tokens[: tokens.index(stop) + 1] if stop in tokens else tokens for tokens in expected]
    said = batch(towers, exit, [TEXTS, TEXTS] if pictured else [TEXTS], images if pictured else None)
    flat = [one for row in said for one in row]
    assert [list(one.tokens) for one in flat] == cut
    assert [len(one.logprobs) for one in flat] == [len(tokens) for tokens in cut]
    assert [one.logprobs[0] for one in flat] == pytest.approx([float(value) for value in first], abs=1e-5)


def test_log_probabilities_are_those_of_one_pass_over_the_answer(towers: Towers) -> None:
    [[said]] = batch(towers, 3, [TEXTS[:1]], None)
    tokens = [*towers.prompts.asked(TEXTS[0], image=False), *said.tokens]
    with torch.no_grad():
        states = towers.decoder(3)(input_ids=torch.tensor([tokens])).last_hidden_state
        chances = towers.model.lm_head(states)[0, -TOKENS - 1 : -1].log_softmax(-1)
    expected = [float(row[token]) for row, token in zip(chances, said.tokens, strict=True)]
    assert list(said.logprobs) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("pictured", [True, False], ids=["picture", "text"])
def test_neighbours_change_nothing(pictured: bool, towers: Towers, images: list[bytes]) -> None:
    some = images if pictured else None
    rows = [TEXTS, TEXTS[::-1]] if pictured else [TEXTS]
    together = batch(towers, 4, rows, some)
    for number, row in enumerate(rows):
        for place, text in enumerate(row):
            [[alone]] = batch(towers, 4, [[text]], some and [images[number]])
            assert alone.tokens == together[number][place].tokens
            assert alone.logprobs == pytest.approx(together[number][place].logprobs, abs=1e-5)


def test_a_decoder_with_an_attention_of_its_own_is_told(towers: Towers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without our attention every token would see every other one, and the answers would be wrong without a word."""
    monkeypatch.setattr(answering, "attending", lambda *decoders: contextlib.nullcontext())
    with pytest.raises(CheckpointError, match="attention can't be replaced"):
        batch(towers, 3, [TEXTS], None)


def test_each_row_draws_from_its_own_generator(towers: Towers, images: list[bytes]) -> None:
    def drawn(rows: Sequence[Sequence[str]], images: Sequence[bytes], seeds: Sequence[int]) -> list[list[Said]]:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return batch(towers, 4, rows, images, temperature=1.0, generators=generators)

    together = drawn([TEXTS, TEXTS[:2]], images, (1, 2))
    assert [one.tokens for one in together[0]] == [one.tokens for one in drawn([TEXTS], images[:1], (1,))[0]]
    assert [one.tokens for one in together[1]] == [one.tokens for one in drawn([TEXTS[:2]], images[1:], (2,))[0]]


def test_tokens_are_drawn_as_likely_as_they_are(towers: Towers) -> None:
    """Over the first tokens of many answers to one prompt: all within four standard errors of their probability."""
    count, temperature = 4000, 0.3
    [said] = batch(
        towers,
        2,
        [TEXTS[:1] * count],
        None,
        temperature=temperature,
        generators=[torch.Generator().manual_seed(3)],
        max_new_tokens=1,
    )
    ids = torch.tensor([towers.prompts.asked(TEXTS[0], image=False)])
    with torch.no_grad():
        states = towers.decoder(2)(input_ids=ids).last_hidden_state[0, -1]
        expected = (towers.model.lm_head(states) / temperature).softmax(-1).double()
    found = torch.bincount(torch.tensor([one.tokens[0] for one in said]), minlength=len(expected)) / count
    assert ((found - expected).abs() <= 4 * (expected * (1 - expected) / count).sqrt() + 1 / count).all()


def test_drawn_answers_repeat_with_their_generator(towers: Towers) -> None:
    def drawn(seed: int, temperature: float = 1.0) -> list[list[Said]]:
        return batch(
            towers, 4, [TEXTS], None, temperature=temperature, generators=[torch.Generator().manual_seed(seed)]
        )

    assert drawn(1) == drawn(1) != drawn(2)
    cold, greedy = drawn(1, 1e-6), batch(towers, 4, [TEXTS], None)
    assert [one.tokens for one in cold[0]] == [one.tokens for one in greedy[0]]
    # Log-probabilities are the untempered distribution's, which is flat here: far from 0, however cold.
    assert cold[0][0].logprobs == pytest.approx(greedy[0][0].logprobs, abs=1e-5)
    assert max(cold[0][0].logprobs) < -1
