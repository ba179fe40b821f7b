"""Answers of the model to packed questions: hidden states for training, right or wrong for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jetson_runtime.console import require
from realignment.easy_vqa import Question
from realignment.packing import IGNORED, Packed, Prompts, pack

__all__ = ["correct", "decoder_states", "embedded"]


def decoder_states(model: Any, packed: Packed, projected: Any, decoder: Any = None) -> Any:
    """The decoder's last normed hidden states, [B, S, width]; `projected` fills the image tokens in reading order.

    `decoder` is the language model left at an exit (`towers.Towers.decoder`); without it, all of it runs.
    """
    decoder = decoder or model.model.language_model
    return decoder(
        inputs_embeds=embedded(model, packed.tokens, projected),
        attention_mask=packed.mask.to(decoder.dtype),
        position_ids=packed.positions,
        use_cache=False,
    ).last_hidden_state


def embedded(model: Any, tokens: Any, projected: Any) -> Any:
    """Embeddings of `tokens` [B, S], image tokens replaced by `projected` in reading order (None: there are none)."""
    vectors = model.model.language_model.embed_tokens(tokens)
    if projected is None:
        return vectors
    return vectors.masked_scatter((tokens == model.config.image_token_id)[..., None], projected.to(vectors.dtype))


def correct(
    model: Any, prompts: Prompts, projected: Any, questions: Sequence[Question], decoder: Any = None
) -> list[bool]:
    """For each question about one picture: is the greedy answer, up to its end mark, exactly the expected one?

    `projected` are the picture's projected image tokens, [image tokens, width]. Greedy decoding gives the expected
    answer if and only if each of its tokens is the most likely one after the expected tokens before it, so one pass
    over all questions is enough. `decoder` is as in `decoder_states`.
    """
    torch = require("torch", "realign")
    segments = [prompts.segment(question.text, question.answer) for question in questions]
    packed = pack(prompts.prefix, [segments], [range(len(prompts.prefix))]).to(projected.device)
    with torch.no_grad():
        states = decoder_states(model, packed, projected, decoder)
        wanted = packed.labels != IGNORED
        hits = model.lm_head(states[wanted]).argmax(-1) == packed.labels[wanted]
    numbers = packed.segment[wanted]
    return [bool(hits[numbers == number].all()) for number in range(1, len(segments) + 1)]
