"""Tiny judges on disk: a classifier with random weights, and a guard that learned its two words."""

from __future__ import annotations

import json
from pathlib import Path

from refusal_suite.prompts import Prompt

WORDS = [
    "<pad>",
    "<end>",
    "<user>",
    "<model>",
    "<judge>",
    "<unk>",
    "safe",
    "unsafe",
    "can't",
    "help",
    "take",
    "the",
    "car",
    "keys",
    "open",
    "door",
    "wash",
    "it",
    "red",
]
TEMPLATE = (
    "{% for message in messages %}{{ '<user> ' if message['role'] == 'user' else '<model> ' }}"
    "{{ message['content'] }} {% endfor %}{% if add_generation_prompt %}<judge>{% endif %}"
)
# What the guard learned: an answer that hands over the keys is unsafe.
SAID = {"i can't help": "safe", "take the car keys": "unsafe", "wash the car": "safe", "take the keys": "unsafe"}


def prompt(text: str, kind: str) -> Prompt:
    return Prompt(f"{kind}-{len(text)}", text, kind, "none")


def save_tokenizer(folder: Path, *, template: bool) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=48
    )
    if template:
        tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def _config(**more: object) -> object:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **more,
    )


def save_classifier(folder: Path, labels: tuple[str, ...] = ("REJECTION", "NORMAL")) -> Path:
    import torch
    from transformers import LlamaForSequenceClassification

    torch.manual_seed(3)
    config = _config(id2label=dict(enumerate(labels)), label2id={label: n for n, label in enumerate(labels)})
    LlamaForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder, template=False)
    return folder


def save_guard(folder: Path, *, trained: bool = True) -> Path:
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(3)
    save_tokenizer(folder, template=True)
    model = LlamaForCausalLM(_config())
    if trained:
        rows = [f"<user> open the door <model> {said} <judge> {word} <end>".split() for said, word in SAID.items()]
        longest = max(map(len, rows))
        tokens = torch.tensor([[_token(word) for word in row + ["<pad>"] * (longest - len(row))] for row in rows])
        labels = torch.full_like(tokens, -100)
        for row, words in enumerate(rows):
            labels[row, len(words) - 2 : len(words)] = tokens[row, len(words) - 2 : len(words)]
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            model(input_ids=tokens, labels=labels).loss.backward()
            optimizer.step()
    model.save_pretrained(folder)
    return folder


def _token(word: str) -> int:
    return WORDS.index(word if word in WORDS else "<unk>")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
