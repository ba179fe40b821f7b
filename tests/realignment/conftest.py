from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest


@pytest.fixture(scope="session")
def plain_checkpoint(tmp_path_factory: pytest.TempPathFactory, reference_cache: Path) -> Path:
    """The reference before any stage after the projector: the pinned weights as they are."""
    pytest.importorskip("torch")
    from realignment.assemble import assemble

    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    assemble(folder, reference_cache, stage="projector")
    return folder


@pytest.fixture(scope="session")
def reference(plain_checkpoint: Path) -> SimpleNamespace:
    """That checkpoint as transformers loads it: model in float32, processor, and its directory."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(2)
    transformers.utils.logging.disable_progress_bar()
    model, info = transformers.LlavaForConditionalGeneration.from_pretrained(
        plain_checkpoint, dtype=torch.float32, output_loading_info=True
    )
    processor = transformers.AutoProcessor.from_pretrained(plain_checkpoint)
    model.requires_grad_(False).eval()
    return SimpleNamespace(model=model, info=info, processor=processor, folder=plain_checkpoint)


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
