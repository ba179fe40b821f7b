"""Judges from a directory: real models with tiny weights, saved to disk and loaded from it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from judge_models import edit_config, prompt, save_classifier, save_guard, save_tokenizer

from jetson_runtime.errors import BackendError, CheckpointError, ConfigError, HoldfastError
from refusal_suite.cli import main
from refusal_suite.judge import JUDGE, Verdict
from refusal_suite.judges.local import open_local

LABELS = {"REJECTION": "refusal", "NORMAL": "compliance"}
ANSWERS = [
    "i can't help", "take the car keys", "wash it", "open the door", "the car is red", "red", "open the red car door",
    "help", "wash the car keys", "can't open it", "the keys open the car door", "take it", "safe", "the door is safe",
    "wash the red car", "help it", "keys", "open the car and take the keys", "car door",
]  # fmt: skip


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("judges") / "rejection")


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_guard(tmp_path_factory.mktemp("judges") / "guard")


def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / folder.name))


@pytest.mark.parametrize("text", ["pair", "answer"])
def test_a_batch_gives_the_classes_that_one_answer_at_a_time_gives(classifier: Path, tmp_path: Path, text: str) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaForSequenceClassification

    folder = copy(classifier, tmp_path)
    (folder / "judge.yaml").write_text(f"labels: {{REJECTION: refusal, NORMAL: compliance}}\ntext: {text}\n")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForSequenceClassification.from_pretrained(folder)
    asked = prompt("open the car", "harmful")
    expected = []
    for answer in ANSWERS:
        given = tokenizer(*(["open the car", answer] if text == "pair" else [answer]), return_tensors="pt")
        with torch.inference_mode():
            expected.append(["REJECTION", "NORMAL"][int(model(**given).logits.argmax())])
    judge = open_local(folder)

    verdicts = judge([asked] * len(ANSWERS), ANSWERS)

    assert [verdict.rule for verdict in verdicts] == [f"class-{name}" for name in expected]
    assert [verdict.label for verdict in verdicts] == [LABELS[name] for name in expected]
    assert {verdict.judge for verdict in verdicts} == {judge.name}
    assert set(expected) == set(LABELS)


def test_without_a_class_for_it_the_rules_find_what_says_nothing(classifier: Path, tmp_path: Path) -> None:
    judge = open_local(classifier, LABELS)
    said = judge([prompt("open the car", "harmful")] * 2, ["", "red red red red red red red red"])
    assert said == [Verdict("incoherent", f"coherence-{why}", judge.name) for why in ("empty", "repetition")]
    assert judge([], []) == []

    own = save_classifier(tmp_path / "own", ("R", "C", "I"))
    three = open_local(own, {"R": "refusal", "C": "compliance", "I": "incoherent"})
    assert three([prompt("open the car", "harmful")], [""])[0].rule in ("class-R", "class-C", "class-I")


def test_the_name_changes_with_weights_tokenizer_and_labels_only(classifier: Path, tmp_path: Path) -> None:
    name = open_local(classifier, LABELS).name
    assert name.startswith("model:rejection@") and name.endswith(f"+classifier-1+{JUDGE}")
    assert str(classifier.parent) not in name

    folder = copy(classifier, tmp_path)
    (folder / "README.md").write_text("about")
    assert open_local(folder, LABELS).name == name
    assert open_local(folder, {"REJECTION": "compliance", "NORMAL": "refusal"}).name != name
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    changed = open_local(folder, LABELS).name
    assert changed != name
    edit_config(folder, rms_norm_eps=1e-4)
    assert open_local(folder, LABELS).name not in (name, changed)


def test_a_guards_word_is_read_by_what_was_asked(guard: Path) -> None:
    judge = open_local(guard)
    answers = ["i can't help", "take the car keys", "wash the car", "", "take the keys"]

    harmful = judge([prompt("open the door", "harmful")] * 5, answers)
    benign = judge([prompt("open the door", "benign")] * 5, answers)

    assert [(verdict.label, verdict.rule) for verdict in harmful] == [
        ("refusal", "safe"),
        ("compliance", "unsafe"),
        ("refusal", "safe"),
        ("incoherent", "coherence-empty"),
        ("compliance", "unsafe"),
    ]
    # Both a refusal and an answer are safe here: the rules tell them apart.
    assert [(verdict.label, verdict.rule) for verdict in benign] == [
        ("refusal", "safe-cannot"),
        ("compliance", "unsafe"),
        ("compliance", "safe-short-answer"),
        ("incoherent", "coherence-empty"),
        ("compliance", "unsafe"),
    ]
    assert judge.name.startswith("model:guard@") and judge.name.endswith(f"+guard-1+{JUDGE}")
    assert {verdict.judge for verdict in harmful + benign} == {judge.name}


def test_a_guard_that_writes_neither_word_gives_no_verdict(tmp_path: Path) -> None:
    judge = open_local(save_guard(tmp_path / "untrained", trained=False))
    with pytest.raises(BackendError, match="gave no verdict on the answer to 'harmful-13'") as raised:
        judge([prompt("open the door", "harmful")], ["take the car keys"])
    assert "keys" not in str(raised.value)


def test_a_template_that_takes_no_turns_is_an_error_without_the_texts(guard: Path, tmp_path: Path) -> None:
    folder = copy(guard, tmp_path)
    (folder / "chat_template.jinja").write_text("{{ raise_exception(messages[0]['content']) }}")
    with pytest.raises(BackendError, match="can't judge these answers") as raised:
        open_local(folder)([prompt("open the door", "harmful")], ["take the car keys"])
    assert "door" not in str(raised.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, ("no mapping", "each of REJECTION, NORMAL")),
        ({"REJECTION": "refusal"}, ("REJECTION=refusal", "each of REJECTION, NORMAL")),
        ({**LABELS, "OTHER": "refusal"}, ("OTHER=refusal",)),
        ({"REJECTION": "refusal", "NORMAL": "refusal"}, ("one as compliance",)),
    ],
)
def test_labels_that_do_not_fit_the_model_are_refused(
    classifier: Path, labels: dict[str, str] | None, words: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match="not mapped to ours") as raised:
        open_local(classifier, labels)
    assert all(word in str(raised.value) for word in words)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("labels: {REJECTION: no", "can't be read"),
        ("- a list", "can't be read"),
        ("lables: {}", "can't be read"),
        ("labels: {REJECTION: declined, NORMAL: compliance}", "our three"),
        ("labels: [refusal]", "our three"),
        ("labels: {REJECTION: refusal, NORMAL: compliance}\ntext: both", "unknown text"),
    ],
)
def test_a_judge_yaml_that_is_wrong_is_refused(classifier: Path, tmp_path: Path, text: str, what: str) -> None:
    folder = copy(classifier, tmp_path)
    (folder / "judge.yaml").write_text(text)
    with pytest.raises(ConfigError, match=what):
        open_local(folder)


def test_directories_that_hold_no_judge(classifier: Path, guard: Path, tmp_path: Path) -> None:
    cases: dict[str, tuple[Path, str]] = {"absent": (tmp_path / "absent", "no such directory")}
    for name, (origin, change, words) in {
        "kind": (classifier, lambda at: edit_config(at, architectures=["BertForMaskedLM"]), "BertForMaskedLM"),
        "none": (classifier, lambda at: edit_config(at, architectures=None), "no architecture"),
        "cut": (guard, lambda at: (at / "model.safetensors").write_bytes(b"\x08"), "can't be loaded"),
        "pickle": (guard, lambda at: (at / "model.safetensors").rename(at / "pytorch_model.bin"), "safetensors"),
        "template": (guard, lambda at: (at / "chat_template.jinja").unlink(), "no chat template"),
        "tokenizer": (guard, lambda at: (at / "tokenizer.json").write_text("{"), "can't be loaded"),
        "labels": (guard, lambda at: (at / "judge.yaml").write_text("labels: {}"), "takes no labels"),
    }.items():
        folder = Path(shutil.copytree(origin, tmp_path / name))
        change(folder)
        cases[name] = (folder, words)
    for name, (folder, words) in cases.items():
        with pytest.raises(HoldfastError) as raised:
            open_local(folder)
        assert isinstance(raised.value, (CheckpointError, ConfigError)), name
        assert words in str(raised.value), name


@pytest.mark.usefixtures("runtime")
def test_the_report_says_which_judge_gave_each_verdict(classifier: Path, small_set: Path, tmp_path: Path) -> None:
    from jetson_runtime.files import read_json

    judged = ["--judge", f"model:{classifier}", "--judge-labels", "REJECTION=refusal,NORMAL=compliance"]
    assert main(["run", "bundle", "--prompts", str(small_set), "--out", str(tmp_path / "r.json"), *judged]) == 0

    report = read_json(tmp_path / "r.json")
    assert report["judge"] == open_local(classifier, LABELS).name
    items = [item for depth in report["depths"] for item in depth["items"]]
    assert {item["judge"] for item in items} == {report["judge"]}
    assert {item["rule"] for item in items} <= {"class-REJECTION", "class-NORMAL", "coherence-empty"}
    assert str(classifier.parent) not in (tmp_path / "r.json").read_text()


def test_tokenizers_without_padding_are_asked_one_answer_at_a_time(classifier: Path, tmp_path: Path) -> None:
    folder = copy(classifier, tmp_path)
    save_tokenizer(folder, template=False)
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace('"pad_token": "<pad>",', ""))
    asked = [prompt("open the car", "harmful")] * len(ANSWERS)
    alone, batched = open_local(folder, LABELS), open_local(classifier, LABELS)
    assert [each.label for each in alone(asked, ANSWERS)] == [each.label for each in batched(asked, ANSWERS)]
