"""A worker: it loads a bundle once, and answers only on what the unit was planned for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweeping import AlwaysRefusal, SweepFolder, make_folder

from jetson_runtime.errors import BundleError
from refusal_suite.fleet.store import UnitStore
from refusal_suite.fleet.work import InProcess, Worker

pytest.importorskip("onnxruntime", reason="the extra 'cpu' is not installed")


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Callable[[str, str], Path]) -> SweepFolder:
    return make_folder(tmp_path, tiny_bundle("clip-llama", "fp32"))


def test_a_worker_answers_only_on_what_was_planned(
    folder: SweepFolder, tiny_bundle: Callable[[str, str], Path]
) -> None:
    jobs = list(folder.plan().jobs(UnitStore(folder.path / "units")))
    plain, shown = (next(job for job in jobs if (job.prompts[0].image is None) == bare) for bare in (True, False))
    worker = Worker()
    other = replace(plain.parcel(), bundle=tiny_bundle("dinov2-mistral", "fp32"))
    with pytest.raises(BundleError, match="found: another bundle"):
        worker.do(other)
    with pytest.raises(BundleError, match="found: another picture"):
        worker.do(replace(shown.parcel(), pictures=(b"other",) * len(shown.prompts)))
    with pytest.raises(BundleError, match="found: another judge"):
        Worker(AlwaysRefusal).do(plain.parcel())
    basis = replace(plain.unit.basis, software={**plain.unit.basis.software, "numpy": "0"})
    with pytest.raises(BundleError, match="found: another software"):
        worker.do(replace(plain.parcel(), unit=replace(plain.unit, basis=basis)))

    assert [entry["id"] for entry in worker.do(plain.parcel())] == [prompt.id for prompt in plain.prompts]
    worker.close()


def test_a_bundle_is_loaded_once(folder: SweepFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    import jetson_runtime

    loaded: list[Any] = []
    load = jetson_runtime.load

    def counted(path: Path, **options: Any) -> Any:
        loaded.append(path)
        return load(path, **options)

    monkeypatch.setattr(jetson_runtime, "load", counted)
    folder.sweep("out", InProcess())

    assert loaded == [folder.bundle]


def test_a_bundle_that_changed_since_is_refused(folder: SweepFolder, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder.bundle, copy)
    plan = folder.plan(bundles={"tiny": str(copy)})
    job = next(plan.jobs(UnitStore(tmp_path / "units")))
    (copy / "tokenizer" / "chat_template.jinja").write_text("changed")

    with pytest.raises(BundleError, match=r"chat_template\.jinja"):
        Worker().do(job.parcel())
