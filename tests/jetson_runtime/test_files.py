from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetson_runtime import files
from jetson_runtime.errors import InputError, StorageError
from jetson_runtime.files import (
    canonical_json,
    copy_file,
    discard_directory,
    read_json,
    sha256_file,
    staged_directory,
    write_json,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
)


@given(json_values)
def test_equal_values_have_one_text(value: object) -> None:
    import json

    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staged_directory(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="free some space"), staged_directory(tmp_path / "out"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []


def test_what_lies_there_is_kept_unless_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    with pytest.raises(StorageError, match="--force"), staged_directory(out):
        pass
    with pytest.raises(ZeroDivisionError), staged_directory(out, replace=True):
        raise ZeroDivisionError
    assert (out / "old").exists()
    with staged_directory(out, replace=True) as folder:
        (folder / "new").write_text("new")
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_build_leaves_no_result_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from jetson_runtime.files import staged_directory\n"
        f"with staged_directory(Path({str(tmp_path / 'out')!r})) as folder:\n"
        "    (folder / 'half').write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with staged_directory(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, float("nan"))
    assert read_json(path) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["value.json"]


def test_json_that_is_none_is_an_error_with_the_path(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text("{")
    for wrong in (path, tmp_path / "missing.json"):
        with pytest.raises(InputError, match=wrong.name):
            read_json(wrong)


def test_a_link_or_a_file_in_the_way_is_replaced_and_what_a_link_points_at_is_kept(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "plain").write_text("plain")
    for name in ("link", "plain"):
        with staged_directory(tmp_path / name, replace=True) as folder:
            (folder / "new").write_text("new")
        assert not (tmp_path / name).is_symlink()
        assert (tmp_path / name / "new").read_text() == "new"
    assert (kept / "file").read_text() == "kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link", "plain"]


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that can't exchange two directories."""
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)


@pytest.mark.usefixtures("no_exchange")
def test_without_exchange_a_directory_is_replaced_too(tmp_path: Path) -> None:
    test_what_lies_there_is_kept_unless_replaced(tmp_path)


@pytest.mark.usefixtures("no_exchange")
def test_without_exchange_what_was_there_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("old")
    rename = Path.rename

    def fails_at_the_second(self: Path, target: Path) -> Path:
        if self.name == ".out.partial" and target.name == "out":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_at_the_second)
    with pytest.raises(OSError, match="Input/output"), staged_directory(out, replace=True):
        pass
    assert (out / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_next_run_puts_back_what_a_killed_one_had_moved_away(tmp_path: Path) -> None:
    out, old, partial = (tmp_path / name for name in ("out", ".out.old", ".out.partial"))
    for folder in (old, partial):
        folder.mkdir()
    (old / "old").write_text("old")
    with pytest.raises(StorageError, match="already exists"), staged_directory(out):
        pass
    assert (out / "old").exists() and not old.exists() and not partial.exists()
    out.rename(old)
    out.mkdir()  # killed after the new one was in place: then the old one is not wanted any more
    (out / "new").write_text("new")
    with pytest.raises(StorageError, match="already exists"), staged_directory(out):
        pass
    assert [path.name for path in out.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_discarded_directory_is_gone_with_its_leftovers(tmp_path: Path) -> None:
    for name in ("slot", ".slot.partial"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "file").write_text("file")
    for _ in range(2):
        discard_directory(tmp_path / "slot")
        assert list(tmp_path.iterdir()) == []


def test_a_copy_has_the_same_bytes_and_replaces_nothing(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom((1 << 22) + 7))
    copy_file(source, copy)
    assert sha256_file(copy) == sha256_file(source)
    with pytest.raises(FileExistsError):
        copy_file(source, copy)
