"""A judge from a local directory: a sequence classifier, or a safety model that writes `safe` or `unsafe`.

Nothing is downloaded, no code of the directory is run, and weights are read from safetensors only.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError, ConfigError, HoldfastError
from jetson_runtime.files import canonical_json, read_json, sha256_file
from refusal_suite.judge import COMPLIANCE, LABELS, REFUSAL
from refusal_suite.judges.classifier import PAIR, TEXTS, Classifier
from refusal_suite.judges.guard import Guard
from refusal_suite.judges.protocol import Judge

__all__ = ["SETTINGS", "Settings", "open_local", "read_settings"]

SETTINGS = "judge.yaml"
# What a verdict can depend on: weights, configuration, tokenizer, chat template. Not a README.
_DECIDING = (".safetensors", ".json", ".jinja", ".model", ".txt")
_DIGITS = 32


@dataclass(frozen=True)
class Settings:
    """How a classifier is read: its labels in our words, and whether it sees request and answer or the answer alone."""

    labels: Mapping[str, str] = field(default_factory=dict)
    text: str = PAIR


def read_settings(folder: Path, labels: Mapping[str, str] | None = None) -> Settings:
    """The directory's judge.yaml, if there is one; `labels` from the command line take the place of its labels.

    Raises:
        ConfigError: the file is not YAML, or holds a field or a value that is unknown.
    """
    path = folder / SETTINGS
    value: Any = {}
    if path.is_file():
        try:
            value = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
            value = None
    if not isinstance(value, dict) or not set(value) <= {"labels", "text"}:
        raise ConfigError(
            f"{path} can't be read",
            found=", ".join(map(str, value)) if isinstance(value, dict) else "no YAML mapping",
            expected="labels: {LABEL: refusal, ...}, and optionally text: pair or answer",
            remedy="correct the file, or remove it and give --judge-labels",
        )
    mapping, text = labels or value.get("labels") or {}, value.get("text", PAIR)
    if not isinstance(mapping, Mapping) or not all(
        isinstance(ours, str) and ours in LABELS for ours in mapping.values()
    ):
        raise ConfigError(
            f"{path}: labels must be mapped to our three",
            found=mapping,
            expected=f"LABEL: {' | '.join(LABELS)}",
            remedy="correct the file",
        )
    if text not in TEXTS:
        raise ConfigError(f"{path}: unknown text '{text}'", expected=" or ".join(TEXTS), remedy="correct the file")
    return Settings({str(theirs): ours for theirs, ours in mapping.items()}, text)


def open_local(folder: Path, labels: Mapping[str, str] | None = None) -> Judge:
    """The judge in `folder`; its `config.json` says which kind it is.

    Raises:
        CheckpointError: no model directory, or one of another kind. ConfigError: its labels are not mapped to ours, or
            it takes none. MissingExtraError: the extra `judge` is not installed.
    """
    config = folder / "config.json"
    if not config.is_file() or not list(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"{folder} holds no judge",
            found="a directory without config.json or *.safetensors" if folder.is_dir() else "no such directory",
            expected="a Hugging Face directory with config.json, tokenizer and safetensors",
            remedy="give the directory of a downloaded classifier: --judge model:DIR",
        )
    value = read_json(config)
    names = value.get("architectures") if isinstance(value, dict) else None
    kinds = [str(name) for name in names] if isinstance(names, list) else []
    if any(name.endswith("ForSequenceClassification") for name in kinds):
        return _classifier(folder, read_settings(folder, labels))
    if any(name.endswith("ForCausalLM") for name in kinds):
        return _guard(folder, labels)
    raise CheckpointError(
        f"{config}: no kind of judge that is known",
        found=", ".join(kinds) or "no architecture",
        expected="...ForSequenceClassification, or ...ForCausalLM that writes safe or unsafe",
        remedy="give a directory of one of these kinds",
    )


def _classifier(folder: Path, settings: Settings) -> Judge:
    with _loading(folder) as load:
        model, tokenizer = load("AutoModelForSequenceClassification")
    theirs = [str(name) for _, name in sorted(model.config.id2label.items())]
    if set(theirs) != set(settings.labels) or not {REFUSAL, COMPLIANCE} <= set(settings.labels.values()):
        raise ConfigError(
            f"the labels of the judge {folder.name} are not mapped to ours",
            found=", ".join(f"{name}={ours}" for name, ours in settings.labels.items()) or "no mapping",
            expected=f"each of {', '.join(theirs)}, at least one as {REFUSAL} and one as {COMPLIANCE}",
            remedy=f"give --judge-labels '{theirs[0]}={REFUSAL},...', or labels in {folder / SETTINGS}",
        )
    how = canonical_json({"labels": dict(settings.labels), "text": settings.text})
    name = f"{_name(folder, how)}+{Classifier.version}"
    return Classifier(name, model, tokenizer, tuple(settings.labels[each] for each in theirs), settings.text)


def _guard(folder: Path, labels: Mapping[str, str] | None) -> Judge:
    if labels or (folder / SETTINGS).exists():
        raise ConfigError(
            f"the judge {folder.name} takes no labels",
            found="--judge-labels" if labels else SETTINGS,
            expected="nothing: it writes safe or unsafe",
            remedy="leave the labels out",
        )
    with _loading(folder) as load:
        model, tokenizer = load("AutoModelForCausalLM")
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"the judge {folder.name} has no chat template",
            expected="chat_template.jinja, or one in tokenizer_config.json",
            remedy="add the template that its makers publish",
        )
    return Guard(f"{_name(folder)}+{Guard.version}", model, tokenizer)


@contextmanager
def _loading(folder: Path) -> Iterator[Any]:
    transformers, torch = require("transformers", "judge"), require("torch", "judge")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    local = {"local_files_only": True, "trust_remote_code": False}

    def load(kind: str) -> tuple[Any, Any]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
        model = getattr(transformers, kind).from_pretrained(folder, use_safetensors=True, dtype="auto", **local)
        return model.to(device).eval(), tokenizer

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield load
    except HoldfastError:
        raise
    except Exception as error:  # each of the libraries beneath has its own
        raise CheckpointError(
            f"the judge in {folder} can't be loaded",
            found=str(error).splitlines()[0] if str(error) else type(error).__name__,
            remedy="check that the directory is complete and of a kind that the installed transformers knows",
        ) from None


def _name(folder: Path, how: str = "") -> str:
    """The directory's name and one digest over every file that a verdict depends on, and over `how` it is read."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _DECIDING)
    lines = [f"{path.name} {sha256_file(path)}\n" for path in files]
    return f"model:{folder.resolve().name}@{hashlib.sha256(''.join([*lines, how]).encode()).hexdigest()[:_DIGITS]}"
