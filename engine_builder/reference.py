"""The reference that bundles are compared with: `transformers`, its towers cut at the exits."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from engine_builder.checkpoint import Checkpoint
from jetson_runtime.console import require
from jetson_runtime.ladder import Depth

__all__ = ["Reference", "drawn_picture"]


def drawn_picture() -> bytes:
    """A drawn picture with edges, areas and colours, as PNG; not square, so that resizing and cropping show too."""
    image = Image.new("RGB", (400, 300), (120, 170, 220))
    draw = ImageDraw.Draw(image)
    draw.polygon([(150, 300), (190, 120), (210, 120), (250, 300)], fill=(90, 90, 95))
    draw.rectangle([0, 200, 120, 300], fill=(70, 130, 60))
    draw.polygon([(290, 60), (250, 130), (330, 130)], fill=(255, 255, 255), outline=(200, 20, 20), width=8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Reference:
    """A checkpoint in PyTorch, fp32.

    Raises:
        CheckpointError: the directory is not a checkpoint. MissingExtraError: torch or transformers is missing.
    """

    def __init__(self, path: Path) -> None:
        Checkpoint(path)  # our own clear errors before transformers' long ones
        self._torch = require("torch", "realign")
        transformers = require("transformers", "realign")
        transformers.utils.logging.disable_progress_bar()
        model = transformers.LlavaForConditionalGeneration.from_pretrained(path, dtype=self._torch.float32)
        self.model: Any = model.eval()
        self.processor: Any = transformers.AutoProcessor.from_pretrained(path, backend="pil")
        vision, language = self.model.model.vision_tower, self.model.model.language_model
        self._vision: Any = getattr(vision, "vision_model", vision)
        self._language: Any = language
        self._layers: Any = language.layers

    def inputs(self, question: str, image: bytes | None) -> Any:
        """The checkpoint's own processor on one user turn."""
        content = [{"type": "image"}] * (image is not None) + [{"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        bos = self.processor.tokenizer.bos_token
        pictures = None if image is None else [Image.open(io.BytesIO(image)).convert("RGB")]
        special = not (bos and text.startswith(bos))
        return self.processor(text=[text], images=pictures, return_tensors="pt", add_special_tokens=special)

    def trace(self, question: str, image: bytes, *, capacity: int) -> dict[str, Any]:
        """What flows through every block for one question with a picture.

        Returns `pixels`, and for "vision" and "decoder" a mapping: entry 0 goes into block 1, entry n comes out of
        block n, without the final norm. At most `capacity` tokens of the prompt are kept.
        """
        record: dict[str, Any] = {"vision": {}, "decoder": {}}
        hooks = []
        encoder = self._vision.encoder
        blocks = encoder.layers if hasattr(encoder, "layers") else encoder.layer  # CLIP and DINOv2 differ by one letter
        for tower, layers in (("vision", blocks), ("decoder", self._layers)):
            for number, layer in enumerate(layers):
                hooks.append(layer.register_forward_hook(_keeper(record[tower], number), with_kwargs=True))
        inputs = self.inputs(question, image)
        with self._torch.inference_mode():
            self.model(**inputs)
        for hook in hooks:
            hook.remove()
        record["decoder"] = {number: value[:, :capacity] for number, value in record["decoder"].items()}
        return {**record, "pixels": inputs["pixel_values"].numpy()}

    def answer(self, depth: Depth, question: str, image: bytes | None, tokens: int) -> tuple[np.ndarray, list[int]]:
        """(logits [vocabulary] of the prompt's last token, greedy tokens) at a depth, never ending before `tokens`."""
        self.cut(depth)
        inputs = self.inputs(question, image)
        with self._torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=tokens,
                do_sample=False,
                eos_token_id=None,
                return_dict_in_generate=True,
                output_logits=True,
            )
        self.cut(None)
        return output.logits[0][0].numpy(), output.sequences[0, inputs["input_ids"].shape[1] :].tolist()

    def text(self, depth: Depth, question: str, image: bytes | None, tokens: int) -> str:
        """The greedy answer at a depth, ended by the checkpoint's own stop tokens."""
        _, answer = self.answer(depth, question, image, tokens)
        stop = self.model.generation_config.eos_token_id
        stops = stop if isinstance(stop, list) else [stop]
        ends = [answer.index(token) for token in stops if token in answer]
        decoded: str = self.processor.tokenizer.decode(answer[: min(ends, default=tokens)], skip_special_tokens=True)
        return decoded.strip()

    def cut(self, depth: Depth | None) -> None:
        """Leave both towers at a depth's exits, as ICET does (None: as the checkpoint is)."""
        layers = self._layers if depth is None else self._layers[: depth.decoder]
        self._language.layers = layers
        self._language.config.num_hidden_layers = len(layers)
        if depth is not None:
            self.model.config.vision_feature_layer = depth.vision


def _keeper(record: dict[int, np.ndarray], number: int) -> Any:
    def keep(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        source = args[0] if args else kwargs["hidden_states"]
        result = output[0] if isinstance(output, tuple) else output
        record.setdefault(number, source.numpy())
        record[number + 1] = result.numpy()

    return keep
