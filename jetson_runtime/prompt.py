"""From a question to token ids: the checkpoint's own chat template and tokenizer, without transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from jetson_runtime.errors import BundleError, InputError

__all__ = ["Prompt", "Prompter"]


@dataclass(frozen=True)
class Prompt:
    """Token ids of a whole prompt; `image_at` is where the image's tokens begin (None without an image)."""

    token_ids: tuple[int, ...]
    image_at: int | None


class Prompter:
    """Builds prompts for one bundle and turns tokens back into text."""

    def __init__(self, tokenizer_path: Path, template_path: Path, *, image_token_id: int, image_tokens: int) -> None:
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer_path))
        except Exception as error:  # the library raises plain Exception
            raise BundleError(
                f"{tokenizer_path} is not a tokenizer", found=error, remedy="export the bundle again"
            ) from None
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(template_path.read_text(encoding="utf-8"))
        except (OSError, TemplateError) as error:
            raise BundleError(
                f"{template_path} is not a chat template", found=error, remedy="export the bundle again"
            ) from None
        self._image_token_id = image_token_id
        self._image_tokens = image_tokens
        added = self.tokenizer.get_added_tokens_decoder()
        self._control = {token.content for token in added.values() if token.special} | {self._image_token}

    @property
    def _image_token(self) -> str:
        return str(self.tokenizer.id_to_token(self._image_token_id))

    def __call__(self, text: str, *, with_image: bool) -> Prompt:
        """The prompt for one user turn.

        Raises:
            InputError: the text is empty or holds one of the model's control tokens.
        """
        if not text.strip():
            raise InputError("the prompt is empty", expected="a question or a request", remedy="pass a text")
        for token in sorted(self._control):
            if token and token in text:
                raise InputError(
                    "the prompt holds a control token, which could pass for another speaker's turn",
                    found=token,
                    remedy="remove it from the text",
                )
        content = [{"type": "image"}] * with_image + [{"type": "text", "text": text}]
        rendered = self._template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
        ids = self.tokenizer.encode(rendered, add_special_tokens=not self._has_bos(rendered)).ids
        if not with_image:
            return Prompt(tuple(ids), None)
        at = ids.index(self._image_token_id)
        return Prompt((*ids[:at], *[self._image_token_id] * self._image_tokens, *ids[at + 1 :]), at)

    def _has_bos(self, rendered: str) -> bool:
        return any(rendered.startswith(token) for token in self._control if token)


def _raise(message: str) -> None:
    raise TemplateError(message)
