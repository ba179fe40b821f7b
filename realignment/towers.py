"""A LLaVA checkpoint in torch whose two towers can be left at any exit, for training and for measuring.

A decoder exit is a view: the same modules, fewer of them, then the checkpoint's own final norm and head. Nothing is
copied, so that what is trained at one exit is trained for all.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.errors import CheckpointError, ConfigError
from realignment.packing import Prompts

__all__ = ["Towers"]

_BATCH = 16


class Towers:
    """Model (float32, frozen), processor and exits of a LLaVA directory.

    `vision_exits` and `decoder_exits` are all that there are, 1 to L; `vision_exit` is the one that the projector was
    trained on, `decoder_exit` the last. Both towers count blocks executed (ICET's l, Bachu et al. 2025,
    section 3). Without a `device` the model goes to the GPU, if there is one.

    Raises:
        CheckpointError: no LLaVA checkpoint, or one that lacks weights, the projector's for instance.
    """

    def __init__(self, folder: Path, device: Any = None) -> None:
        torch, transformers = require("torch", "realign"), require("transformers", "realign")
        if not (folder / "config.json").is_file():
            raise CheckpointError(
                f"{folder} is not a checkpoint",
                found="no config.json",
                expected="a LLaVA directory",
                remedy="give the directory that `realign assemble` wrote, or LLaVA-1.5's",
            )
        transformers.utils.logging.disable_progress_bar()
        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        self.folder = folder
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.model: Any = _load(transformers, folder, torch.float32).to(device)
        self.processor: Any = transformers.AutoProcessor.from_pretrained(folder, backend="pil")
        config = self.model.config
        vision = config.vision_config.num_hidden_layers
        layer = config.vision_feature_layer
        if not isinstance(layer, int) or config.vision_feature_select_strategy != "default":
            raise CheckpointError(
                f"{folder} feeds its projector in a way that has no exits",
                found=f"vision_feature_layer {layer}, strategy {config.vision_feature_select_strategy}",
                expected="one layer, strategy 'default', as in LLaVA-1.5",
            )
        # LLaVA-1.5 says -2: hidden_states[-2] of L + 1 entries is what block L - 1 puts out.
        self.vision_exit: int = layer if layer >= 0 else vision + 1 + layer
        self.vision_exits = range(1, vision + 1)
        if self.vision_exit not in self.vision_exits:
            raise CheckpointError(
                f"{folder} feeds its projector from a layer that is no exit",
                found=f"vision_feature_layer {layer}",
                expected=f"1 to {vision}, or -{vision} to -1",
            )
        self.decoder_exit: int = config.text_config.num_hidden_layers
        self.decoder_exits = range(1, self.decoder_exit + 1)
        side = config.vision_config.image_size
        size = getattr(self.processor.image_processor, "crop_size", None)
        side = size["height"] if size else side
        self.prompts = Prompts(self.processor, config.image_token_id, (side // config.vision_config.patch_size) ** 2)
        stop = self.model.generation_config.eos_token_id
        ends = stop if isinstance(stop, list) else [stop]
        self.stop_tokens = frozenset({self.processor.tokenizer.eos_token_id, *ends} - {None})
        self._decoders: dict[int, Any] = {}

    def decoder(self, exit: int) -> Any:
        """The language model left after block `exit`, normed: the same modules as the whole one."""
        language = self.model.model.language_model
        if exit == self.decoder_exit:
            return language
        if exit not in self._decoders:
            view = copy.copy(language)
            view._modules = dict(language._modules)
            view.layers = type(language.layers)(list(language.layers)[:exit])
            view.config = copy.copy(language.config)
            view.config.num_hidden_layers = exit
            self._decoders[exit] = view
        return self._decoders[exit]

    def shown(self, pictures: Sequence[Any], exits: Iterable[int]) -> Mapping[int, Any]:
        """What the decoder is given of PIL `pictures` at each vision exit: float32 [pictures, image tokens, width].

        ICET-l exactly: hidden state l of the image encoder, CLS dropped, through the unchanged projector.
        """
        torch = require("torch", "realign")
        wanted = sorted(set(exits))
        parts: dict[int, list[Any]] = {exit: [] for exit in wanted}
        for start in range(0, len(pictures), _BATCH):
            batch = list(pictures[start : start + _BATCH])
            pixels = self.processor.image_processor(batch, return_tensors="pt")["pixel_values"].to(self.model.device)
            with torch.no_grad():
                states = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
                for exit in wanted:
                    parts[exit].append(self.model.model.multi_modal_projector(states[exit][:, 1:]))
        return {exit: torch.cat(part) for exit, part in parts.items()}

    def check_exits(self, tower: str, exits: Iterable[int]) -> tuple[int, ...]:
        """`exits` sorted, once each.

        Raises:
            ConfigError: the tower ("vision" or "decoder") has no such exit, or the list is empty.
        """
        there = self.vision_exits if tower == "vision" else self.decoder_exits
        wanted = sorted(set(exits))
        wrong = [exit for exit in wanted if exit not in there]
        if wrong or not wanted:
            raise ConfigError(
                f"these {tower} exits don't fit the checkpoint",
                found=", ".join(map(str, wrong)) or "none",
                expected=f"exits from 1 to {there[-1]}",
                remedy="correct the list of exits",
            )
        return tuple(wanted)


def _load(transformers: Any, folder: Path, dtype: Any) -> Any:
    try:
        model, loading = transformers.LlavaForConditionalGeneration.from_pretrained(
            folder, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder} can't be loaded as a LLaVA checkpoint",
            found=str(error).splitlines()[0],
            expected="what LlavaForConditionalGeneration loads",
            remedy="check the directory, or make it again",
        ) from None
    missing = sorted(loading["missing_keys"])
    if missing:
        what = "the projector" if all("projector" in name for name in missing) else "some weights"
        raise CheckpointError(
            f"{folder} lacks {what}",
            found=f"{len(missing)} tensors missing, the first is {missing[0]}",
            expected="all tensors of LlavaForConditionalGeneration",
            remedy="give a complete checkpoint: missing weights would be random ones",
        )
    return model.requires_grad_(False).eval()
