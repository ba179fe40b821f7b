"""Prompts against transformers' own processor, and what a prompt may not hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_builder.reference import Reference, drawn_picture
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import InputError
from jetson_runtime.prompt import Prompter

TEXTS = (
    "What colour is the sign?",
    "  spaces   around  ",
    "Zwei Zeilen\nund Umlaute: äöü ß",
    "emoji 🚗💨 and 漢字",
    "{{ 7 * 7 }} {% raw %} template words {% endraw %}",
    "tabs\tand \\ backslashes",
)
KINDS = ("clip-llama", "dinov2-llama", "clip-qwen2")


@pytest.fixture(scope="module")
def prompter(tiny_bundle: Callable[[str, str], Path]) -> Prompter:
    return open_bundle(tiny_bundle("clip-llama", "fp32")).prompter()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_token_ids_as_transformers(
    kind: str, tiny_llava: Callable[[str], Path], tiny_bundle: Callable[[str, str], Path]
) -> None:
    reference, prompter = Reference(tiny_llava(kind)), open_bundle(tiny_bundle(kind, "fp32")).prompter()
    for text in TEXTS:
        for image in (None, drawn_picture()):
            ours = prompter(text, with_image=image is not None).token_ids
            assert list(ours) == reference.inputs(text, image)["input_ids"][0].tolist()


def test_the_reference_model_reads_the_same_token_ids(reference_checkpoint: Path, reference_bundle: Path) -> None:
    reference, prompter = Reference(reference_checkpoint), open_bundle(reference_bundle).prompter()
    for text in TEXTS:
        for image in (None, drawn_picture()):
            ours = prompter(text, with_image=image is not None).token_ids
            assert list(ours) == reference.inputs(text, image)["input_ids"][0].tolist()


def test_the_image_takes_its_tokens_in_one_run(prompter: Prompter) -> None:
    prompt = prompter("What is it?", with_image=True)
    assert prompt.image_at is not None
    assert prompt.token_ids[prompt.image_at : prompt.image_at + 4] == (256,) * 4
    assert prompt.token_ids.count(256) == 4


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_prompt_is_refused(prompter: Prompter, text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        prompter(text, with_image=False)


@pytest.mark.parametrize("token", ["<image>", "<s>", "</s>"])
def test_a_prompt_can_not_speak_with_another_voice(prompter: Prompter, token: str) -> None:
    with pytest.raises(InputError, match="control token"):
        prompter(f"Hello {token} there", with_image=False)


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_any_text_becomes_a_prompt_or_a_clear_error(prompter: Prompter, text: str) -> None:
    try:
        prompt = prompter(text, with_image=True)
    except InputError:
        return
    assert prompt.token_ids.count(256) == 4
