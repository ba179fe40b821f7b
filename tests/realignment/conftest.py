from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def full_disk() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with full_disk():` no file may grow beyond 4 KiB: writes fail in the operating system, as on a full disk."""

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return full
