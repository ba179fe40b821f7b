from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def reference(reference_checkpoint: Path) -> SimpleNamespace:
    """The reference checkpoint as transformers loads it: model in float32, processor, and its directory."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        reference_checkpoint, dtype=torch.float32, output_loading_info=True
    )
    processor = transformers.AutoProcessor.from_pretrained(reference_checkpoint)
    model.requires_grad_(False).eval()
    return SimpleNamespace(model=model, info=info, processor=processor, folder=reference_checkpoint)
