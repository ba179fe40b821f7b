"""The reference checkpoint is what transformers, LLaVA and the packages' own graphs say it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jetson_runtime.errors import CheckpointError
from jetson_runtime.files import sha256_file

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from realignment import assemble as assembling  # noqa: E402
from realignment.decoder import smollm2_weights  # noqa: E402
from realignment.packages import DINOV2, SMOLLM2, fetch  # noqa: E402
from realignment.vision import dinov2_weights  # noqa: E402


def picture(seed: int = 0) -> Image.Image:
    smooth = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(smooth).resize((320, 260), Image.Resampling.BICUBIC)


def test_transformers_loads_it_unchanged(reference: SimpleNamespace) -> None:
    assert not any(reference.info.values()), reference.info
    assert type(reference.model).__name__ == "LlavaForConditionalGeneration"
    assert type(reference.processor).__name__ == "LlavaProcessor"
    assert reference.model.lm_head.weight.data_ptr() == reference.model.get_input_embeddings().weight.data_ptr()
    config = reference.model.config
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (12, "default")


def test_every_weight_is_float16(reference_checkpoint: Path) -> None:
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(str(reference_checkpoint / "model.safetensors"), "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118
    assert json.loads((reference_checkpoint / "config.json").read_text())["dtype"] == "float16"


def test_the_image_takes_256_tokens_and_is_read_from_exit_12_without_a_norm(reference: SimpleNamespace) -> None:
    inputs = reference.processor(images=picture(), text="<image>\nwhat?", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 224, 224)
    assert int((inputs["input_ids"] == reference.model.config.image_token_id).sum()) == 256
    with torch.no_grad():
        tower = reference.model.model.vision_tower
        states = tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
        expected = reference.model.model.multi_modal_projector(states[12][0, 1:])
        given = reference.model.model.get_image_features(
            inputs["pixel_values"], vision_feature_layer=12, vision_feature_select_strategy="default"
        ).pooler_output[0]
    assert len(states) == 13
    assert torch.equal(given, expected)


def test_preprocessing_is_the_resized_and_normalised_picture(reference: SimpleNamespace) -> None:
    square = picture().resize((224, 224))
    pixels = reference.processor.image_processor(square, return_tensors="np")["pixel_values"][0]
    mean, spread = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (np.asarray(square) / 255 - mean) / spread
    assert np.abs(pixels - expected.transpose(2, 0, 1)).max() < 1e-5


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi."}]}],
            "<|im_start|>user\n<image>\nHi.<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "Hi."}, {"type": "image"}]}],
            "<|im_start|>user\n<image>\nHi.<|im_end|>\n<|im_start|>assistant\n",
        ),
        ([{"role": "user", "content": "Hi."}], "<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n"),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}],
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n<|im_start|>assistant\n",
        ),
    ],
    ids=["image", "image last", "text only", "system"],
)
def test_chat_template(messages: list[dict[str, object]], expected: str, reference: SimpleNamespace) -> None:
    for renderer in (reference.processor, reference.processor.tokenizer):
        assert renderer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == expected


def test_the_runtime_renders_the_same_prompt(reference: SimpleNamespace, reference_checkpoint: Path) -> None:
    jinja2 = pytest.importorskip("jinja2.sandbox")
    environment = jinja2.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((reference_checkpoint / "chat_template.jinja").read_text(encoding="utf-8"))
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi."}]}]
    rendered = template.render(messages=messages, add_generation_prompt=True)
    assert rendered == reference.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def test_tokenizer_splits_digits_and_knows_its_marks(reference: SimpleNamespace) -> None:
    tokenizer = reference.processor.tokenizer
    assert tokenizer.tokenize("in 2026") == ["in", "Ġ", "2", "0", "2", "6"]
    assert tokenizer.encode("<image><|im_end|>") == [16, 2]
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (2, 2, 49152)
    text = "Naïve 日本 — it's 5°C,\n\n  really?"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_answers_end_at_the_end_mark(reference: SimpleNamespace) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = reference.processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    answer = reference.model.generate(**inputs, max_new_tokens=24)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in reference.processor.decode(answer)
    assert int(answer[-1]) == 2


def test_decoder_gives_the_logits_of_the_gguf_file(reference: SimpleNamespace, reference_cache: Path) -> None:
    """transformers' own GGUF loader is the other side; the checkpoint's weights are rounded to float16."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    file = fetch(SMOLLM2, reference_cache)
    other = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    ).eval()
    ids = torch.tensor([reference.processor.tokenizer.encode("The road sign is red and has 3 corners.")])
    with torch.no_grad():
        mine, theirs = reference.model(input_ids=ids).logits, other(input_ids=ids).logits
    converted, loaded = smollm2_weights(file), other.model.state_dict()
    assert converted.keys() == loaded.keys()
    assert all(torch.equal(converted[name], loaded[name]) for name in loaded)
    assert float((mine - theirs).abs().max()) < 0.05
    assert torch.equal(mine.argmax(-1), theirs.argmax(-1))


def test_image_encoder_gives_the_features_of_the_onnx_graph(
    reference: SimpleNamespace, reference_cache: Path, tmp_path: Path
) -> None:
    """The graph's own backbone output (its last hidden state, after the norm) is the other side."""
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    graph = onnx.load(str(fetch(DINOV2, reference_cache)))
    norm = next(n.output[0] for n in reversed(graph.graph.node) if n.name.startswith("/backbone/layernorm/"))
    graph.graph.output.append(onnx.helper.make_tensor_value_info(norm, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    pixels = reference.processor.image_processor(picture(), return_tensors="pt")["pixel_values"]
    theirs = torch.from_numpy(session.run([norm], {session.get_inputs()[0].name: pixels.numpy()})[0])
    tower = reference.model.model.vision_tower
    # By way of files, because the modules' own names differ between versions of transformers.
    weights = {name: tensor.contiguous() for name, tensor in dinov2_weights(fetch(DINOV2, reference_cache)).items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    tower.config.save_pretrained(tmp_path)
    exact = type(tower).from_pretrained(tmp_path, dtype=torch.float32).eval()
    with torch.no_grad():
        mine, unrounded = (model(pixels).last_hidden_state for model in (tower, exact))
    assert mine.shape == theirs.shape == (1, 257, 384)
    assert float((unrounded - theirs).abs().max()) < 1e-3
    assert float((mine - theirs).pow(2).mean().sqrt() / theirs.pow(2).mean().sqrt()) < 1e-3


def test_provenance_names_what_is_in_it(reference: SimpleNamespace) -> None:
    provenance = json.loads((reference.folder / "provenance.json").read_text())
    assert provenance["parts"]["decoder"]["wheel_sha256"] == SMOLLM2.wheel_sha256
    assert provenance["parts"]["vision"]["payload_sha256"] == DINOV2.payload_sha256
    assert provenance["parts"]["projector"]["sha256"] == sha256_file(assembling.PROJECTOR_FILE)
    assert provenance["parts"]["projector"]["trained"] is True
    for name, digest in provenance["files"].items():
        assert sha256_file(reference.folder / name) == digest
    assert set(provenance["files"]) == {path.name for path in reference.folder.iterdir()} - {"provenance.json"}


def test_it_is_the_same_to_the_last_byte_each_time(
    reference_checkpoint: Path, reference_cache: Path, tmp_path: Path
) -> None:
    assembling.assemble(tmp_path / "again", reference_cache)
    digests = [
        {path.name: sha256_file(path) for path in folder.iterdir()}
        for folder in (reference_checkpoint, tmp_path / "again")
    ]
    assert digests[0] == digests[1]


def test_nothing_is_assembled_without_the_trained_projector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "PROJECTOR_FILE", tmp_path / "projector.safetensors")
    with pytest.raises(CheckpointError, match="the trained projector is missing"):
        assembling.assemble(tmp_path / "out", tmp_path / "cache")
    assert not list(tmp_path.iterdir())


def test_a_projector_that_is_not_the_recorded_one_is_refused(tmp_path: Path) -> None:
    for file in (assembling.PROJECTOR_FILE, assembling.PROJECTOR_RECORD):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "projector.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match="not the recorded one"):
        assembling.load_projector(tmp_path / "projector.safetensors")
