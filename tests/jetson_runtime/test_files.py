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

from jetson_runtime.errors import InputError, StorageError
from jetson_runtime.files import canonical_json, read_json, staged_directory, write_json

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
