"""Exits of both towers in torch: what transformers computes when the model ends there."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import KINDS

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from engine_builder.reference import Reference, drawn_picture  # noqa: E402
from jetson_runtime.errors import CheckpointError, ConfigError  # noqa: E402
from jetson_runtime.ladder import Depth  # noqa: E402
from realignment.answers import embedded  # noqa: E402
from realignment.towers import Towers  # noqa: E402

QUESTION = "What is there?"
Folder = Callable[[str], Path]


@pytest.fixture(scope="module")
def towers(tiny_llava: Folder) -> Towers:
    return Towers(tiny_llava("clip-llama"))


def pictures() -> list[Any]:
    picture = Image.open(io.BytesIO(drawn_picture())).convert("RGB")
    return [picture, picture.rotate(90)]


def logits(towers: Towers, vision: int, decoder: int) -> Any:
    """Of a question about the first picture, every token's."""
    tokens = torch.tensor([[*towers.prompts.prefix, *towers.prompts.asked(QUESTION)]])
    shown = towers.shown(pictures()[:1], [vision])[vision]
    states = towers.decoder(decoder)(inputs_embeds=embedded(towers.model, tokens, shown)).last_hidden_state
    return towers.model.lm_head(states)


def changed(folder: Path, out: Path, **entries: object) -> Path:
    """A copy of a checkpoint with other entries in its config."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, **entries}))
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_an_exit_gives_the_logits_of_the_truncated_model(kind: str, tiny_llava: Folder) -> None:
    mine, reference = Towers(tiny_llava(kind)), Reference(tiny_llava(kind))
    inputs = reference.inputs(QUESTION, drawn_picture())
    assert inputs["input_ids"][0].tolist() == [*mine.prompts.prefix, *mine.prompts.asked(QUESTION)]
    seen = []
    for vision, decoder in ((1, 1), (2, 2), (3, 3), (4, 4), (3, 4)):
        reference.cut(Depth("d", vision, decoder))
        with torch.no_grad():
            expected = reference.model(**inputs).logits
            assert float((logits(mine, vision, decoder) - expected).abs().max()) < 1e-5, (vision, decoder)
        reference.cut(None)
        seen.append(expected)
    assert all(float((a - b).abs().max()) > 1e-3 for n, a in enumerate(seen) for b in seen[:n])


def test_what_is_trained_at_an_exit_is_trained_for_all(tiny_llava: Folder) -> None:
    towers = Towers(tiny_llava("clip-llama"))
    language = towers.model.model.language_model
    whole, part = dict(language.named_parameters()), dict(towers.decoder(2).named_parameters())
    assert part.keys() == {name for name in whole if not name.startswith(("layers.2.", "layers.3."))}
    assert all(part[name] is whole[name] for name in part)
    assert towers.decoder(4) is language and len(language.layers) == 4
    with torch.no_grad():
        before = logits(towers, 3, 4)
    language.requires_grad_(True)
    logits(towers, 3, 2).logsumexp(-1).sum().backward()
    assert {name for name, leaf in whole.items() if leaf.grad is not None} == part.keys()
    with torch.no_grad():
        for leaf in part.values():
            leaf -= 0.1 * leaf.grad
        assert float((logits(towers, 3, 4) - before).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_shown_at_an_exit_is_what_transformers_shows(kind: str, tiny_llava: Folder) -> None:
    mine = Towers(tiny_llava(kind))
    shown = mine.shown(pictures(), mine.vision_exits)
    pixels = mine.processor.image_processor(pictures(), return_tensors="pt")["pixel_values"]
    assert list(shown) == [1, 2, 3, 4]
    for exit, given in shown.items():
        with torch.no_grad():
            expected = mine.model.model.get_image_features(
                pixels, vision_feature_layer=exit, vision_feature_select_strategy="default"
            ).pooler_output
        assert given.shape == (2, mine.prompts.image_tokens, 64)
        assert float((given - torch.stack(list(expected))).abs().max()) < 1e-6
    assert float((shown[1] - shown[2]).abs().max()) > 1e-4


def test_many_pictures_are_shown_as_single_ones_are(towers: Towers) -> None:
    many = [pictures()[0].rotate(turn) for turn in range(18)]
    together = towers.shown(many, [2])[2]
    assert together.shape[0] == 18
    assert float((towers.shown(many[17:], [2])[2] - together[17:]).abs().max()) < 1e-6


def test_minus_two_is_the_last_block_but_one(tiny_llava: Folder, tmp_path: Path) -> None:
    """LLaVA-1.5's own setting: exit 23 of 24, here 3 of 4."""
    mine = Towers(changed(tiny_llava("clip-llama"), tmp_path / "minus", vision_feature_layer=-2))
    assert mine.vision_exit == 3
    pixels = mine.processor.image_processor(pictures(), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = torch.stack(list(mine.model.model.get_image_features(pixels).pooler_output))
    assert float((mine.shown(pictures(), [3])[3] - expected).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"vision_feature_layer": 0}, "a layer that is no exit"),
        ({"vision_feature_layer": 5}, "a layer that is no exit"),
        ({"vision_feature_layer": -5}, "a layer that is no exit"),
        ({"vision_feature_layer": [3]}, "a way that has no exits"),
        ({"vision_feature_select_strategy": "full"}, "a way that has no exits"),
    ],
)
def test_a_projector_that_is_fed_otherwise_is_refused(
    entries: dict[str, object], message: str, tiny_llava: Folder, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        Towers(changed(tiny_llava("clip-llama"), tmp_path / "other", **entries))


@pytest.mark.parametrize(("lost", "what"), [("projector", "the projector"), ("layers.2.mlp", "some weights")])
def test_a_checkpoint_without_its_projector_is_refused(
    lost: str, what: str, tiny_llava: Folder, tmp_path: Path
) -> None:
    broken = changed(tiny_llava("clip-llama"), tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if lost not in name}
    assert len(kept) < len(tensors)
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=f"lacks {what}"):
        Towers(broken)


def test_what_is_no_checkpoint_is_refused(tiny_llava: Folder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        Towers(tmp_path)
    damaged = changed(tiny_llava("clip-llama"), tmp_path / "damaged")
    (damaged / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="can't be loaded"):
        Towers(damaged)


@pytest.mark.parametrize(("tower", "exits"), [("vision", [1, 5]), ("decoder", [0]), ("decoder", [])])
def test_exits_that_do_not_fit_are_told(towers: Towers, tower: str, exits: list[int]) -> None:
    with pytest.raises(ConfigError, match=f"these {tower} exits don't fit(.|\n)*exits from 1 to 4"):
        towers.check_exits(tower, exits)
    assert towers.check_exits(tower, [3, 1, 3]) == (1, 3)
