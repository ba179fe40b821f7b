"""Killed before some of the calls that change a file; `python -m benchmarks gate.kill-9` does it before every one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks.kill_points import SUPPORTED, Run, run
from engine_builder.cli import main as engine_build
from jetson_runtime import files
from jetson_runtime.bundle import open_bundle
from jetson_runtime.errors import StorageError

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

if not SUPPORTED:
    pytest.skip("the harness knows the system calls of Linux on x86-64", allow_module_level=True)

from benchmarks.kill_nine import SCENARIOS, Outcome, kill_everywhere, make_parts


def nothing() -> int:
    return 0


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPoolExecutor]:
    """A process without threads, which may be forked."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            pool.submit(run, nothing, tmp_path_factory.mktemp("probe")).result()
        except OSError as error:
            pytest.skip(f"this system does not let a process trace its children: {error}")
        yield pool


@pytest.fixture(scope="module")
def parts(tiny_llava: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tiny_llava("clip-llama"), tmp_path_factory.mktemp("parts"))


POINTS = {"install": 6, "install --trial": 2, "engine-build export --force": 4}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_old_bundle_serves_or_the_new_one_does(name: str, pool: ProcessPoolExecutor, parts: Path) -> None:
    outcome: Outcome = pool.submit(kill_everywhere, name, parts, POINTS.get(name, 2)).result()
    assert outcome.failures == []
    assert outcome.kill_points == POINTS.get(name, 2)


def killed_between_two_renames(parts: Path, folder: Path) -> list[object]:
    """An export on a file system that can't exchange directories, killed where nothing lies at its destination."""

    def export(number: int, *options: str) -> Callable[[], int]:
        words = ["export", "--config", str(parts / f"build-{number}.yaml"), "--out", str(folder / "out"), *options]
        return lambda: engine_build(words)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_exchange", lambda one, other: False)
        run(export(1), folder)
        shutil.copytree(folder, folder.with_name("rehearsal"))
        calls = [str(call) for call in run(export(2, "--force"), folder).calls]
        shutil.rmtree(folder)
        folder.with_name("rehearsal").rename(folder)
        run(export(2, "--force"), folder, calls.index("rename .out.partial out"))
        return [
            (folder / "out").exists(),
            run(export(2), folder).exit_code,
            open_bundle(folder / "out").manifest.release,
        ]


def test_without_exchange_the_next_run_puts_the_old_bundle_back(
    pool: ProcessPoolExecutor, parts: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    found = pool.submit(killed_between_two_renames, parts, tmp_path / "folder").result()
    assert found == [False, StorageError.exit_code, 1], "nothing; refused without --force; the old one is there again"


class Writer:
    """Replaces the text of `file` in one of several ways; the folder holds "old" in the beginning."""

    def __init__(self, how: str, folder: Path) -> None:
        self.how, self.file = how, folder / "file"

    def __call__(self) -> int:
        file, partial = self.file, self.file.with_suffix(".partial")
        if self.how == "in place":
            file.write_text("new text")
            return 0
        with partial.open("w") as opened:
            opened.write("new text")
            opened.flush()
            if self.how != "unflushed":
                os.fsync(opened.fileno())
        if self.how == "removed first":
            file.unlink()
        partial.rename(file)
        if self.how != "directory unflushed":
            descriptor = os.open(file.parent, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
        return 0


def killed(how: str, folder: Path, kill_at: int | None = None) -> tuple[Run, str]:
    """The run, and what lies there after a power loss at that moment."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "file").write_text("old")
    done = run(Writer(how, folder), folder, kill_at)
    done.tear()
    return done, (folder / "file").read_text() if (folder / "file").exists() else "nothing"


def everywhere(how: str, folder: Path) -> tuple[Run, set[str]]:
    whole, _ = killed(how, folder)
    return whole, {killed(how, folder, at)[1] for at in range(len(whole.calls))} | {killed(how, folder)[1]}


@pytest.mark.parametrize(
    ("how", "found", "calls"),
    [
        ("right", {"old", "new text"}, ["openat", "write", "fsync", "rename", "fsync"]),
        ("in place", {"old", "", "new "}, ["openat", "write"]),
        ("removed first", {"old", "nothing", "new text"}, ["openat", "write", "fsync", "unlink", "rename", "fsync"]),
        ("unflushed", {"old", "new "}, ["openat", "write", "rename", "fsync"]),
    ],
)
def test_the_harness_sees_what_is_wrong(
    how: str, found: set[str], calls: list[str], pool: ProcessPoolExecutor, tmp_path: Path
) -> None:
    whole, seen = pool.submit(everywhere, how, tmp_path / "folder").result()
    assert whole.exit_code == 0
    assert [call.name for call in whole.calls] == calls
    assert seen == found
    assert bool(whole.mistakes) == (how == "unflushed")


def test_a_directory_that_is_not_flushed_is_told(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    for how, unflushed in (("right", []), ("directory unflushed", ["."])):
        whole, _ = pool.submit(killed, how, tmp_path / "folder").result()
        assert whole.unflushed() == unflushed


def threads_that_write(folder: Path) -> list[str]:
    from threading import Thread

    def action() -> int:
        thread = Thread(target=(folder / "thread").write_text, args=("text",))
        thread.start()
        thread.join()
        return 7

    done = run(action, folder)
    assert done.exit_code == 7
    return [str(call) for call in done.calls]


def test_threads_are_stopped_too(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert pool.submit(threads_that_write, tmp_path).result() == ["openat thread", "write thread"]
