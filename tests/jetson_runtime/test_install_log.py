from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetson_runtime.errors import StorageError
from jetson_runtime.install_log import FIRST, append, read_log


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "install.log"
    for number in range(3):
        append(path, "event", number=number, text="ü\n\ud800")  # whatever a path may hold
    return path


def test_a_chain_from_the_first_line_to_the_head(log: Path) -> None:
    lines = log.read_bytes().splitlines()
    read = read_log(log)
    assert [event["number"] for event in read.events] == [0, 1, 2]
    assert (read.broken_line, read.torn_bytes, read.whole_bytes) == (None, 0, log.stat().st_size)
    assert [json.loads(line)["previous"] for line in lines] == [
        FIRST,
        *(hashlib.sha256(line).hexdigest() for line in lines[:-1]),
    ]
    assert read.head == hashlib.sha256(lines[-1]).hexdigest()


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    read = read_log(tmp_path / "none")
    assert (read.events, read.broken_line, read.head, read.torn_bytes) == ((), None, FIRST, 0)


def test_every_edit_removal_or_insertion_before_the_last_line_shows(log: Path) -> None:
    lines = log.read_bytes().splitlines(keepends=True)
    edited = [lines[0].replace(b'"number":0', b'"number":9'), *lines[1:]]
    assert edited != lines
    for changed, broken in (
        (edited, 2),
        (lines[1:], 1),
        ([lines[0], lines[2]], 2),
        ([lines[0], lines[0], *lines[1:]], 2),
        ([lines[1], lines[0], lines[2]], 1),
        ([b"\n", *lines], 1),
        ([b"[" * 5000 + b"\n", *lines], 1),
    ):
        log.write_bytes(b"".join(changed))
        assert read_log(log).broken_line == broken, changed


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 60), garbage=st.sampled_from([b"", b"\0" * 40, b"{", b"\xff\xfe"]))
def test_a_torn_last_line_is_cut_and_the_log_goes_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, garbage: bytes
) -> None:
    log = tmp_path_factory.mktemp("log") / "install.log"
    append(log, "first")
    append(log, "torn", text="x" * 60)
    torn = log.read_bytes()[: -cut - 1] + garbage
    log.write_bytes(torn)
    whole = torn.rfind(b"\n") + 1
    assert read_log(log).torn_bytes == len(torn) - whole
    append(log, "next")
    read = read_log(log)
    assert (read.broken_line, read.torn_bytes) == (None, 0)
    assert [event["event"] for event in read.events] == ["first", "cut", "next"]
    assert read.events[1]["torn_bytes"] == len(torn) - whole


def test_a_log_that_was_edited_goes_on_and_stays_broken_there(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b'"number":0', b'"number":9'))
    append(log, "next")
    read = read_log(log)
    assert read.broken_line == 2
    assert [event["event"] for event in read.events] == ["event", "event", "event", "next"]


def test_a_full_disk_is_an_error_and_the_next_line_comes_after_what_was_whole(log: Path) -> None:
    """In a child, because a file size limit holds for a whole process."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 20,) * 2)
        try:
            append(log, "too long", text="x" * 100)
        except StorageError:
            os._exit(42)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
    assert read_log(log).torn_bytes == 20
    append(log, "next")
    assert [event["event"] for event in read_log(log).events][-2:] == ["cut", "next"]


def test_a_log_that_can_not_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "install.log").mkdir()
    with pytest.raises(StorageError, match=r"install\.log can't be read"):
        read_log(tmp_path / "install.log")
