"""Runs something in a child process and kills it at its n-th system call that changes a file: SIGKILL, before the call.

A seccomp filter stops the child at those calls and ptrace(2) shows them, so what is counted is what the kernel is asked
for, whichever library or thread asks. Beside them `Run` keeps an account of what has not reached the disk: bytes that
were written and not flushed, names that were changed in a directory that was not flushed. `Run.tear` cuts those bytes
in half, as a power loss may; `Run.mistakes` are calls in an order that a power loss could turn round.

Linux on x86-64. The child is forked, so this belongs into a process of its own that has no threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import posixpath
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SUPPORTED", "Call", "Run", "run"]

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64"
# x86-64's numbers. What a call changes: f(descriptor), p(ath), d(escriptor of a directory, then a path under it), or -
# for an argument that names nothing.
_CALLS = {
    1: ("write", "f"), 18: ("pwrite64", "f"), 20: ("writev", "f"), 40: ("sendfile", "f"), 296: ("pwritev", "f"),
    328: ("pwritev2", "f"), 326: ("copy_file_range", "--f"), 285: ("fallocate", "f"),
    74: ("fsync", "f"), 75: ("fdatasync", "f"), 77: ("ftruncate", "f"), 76: ("truncate", "p"),
    2: ("open", "p"), 85: ("creat", "p"), 257: ("openat", "d"), 437: ("openat2", "d"),
    82: ("rename", "pp"), 264: ("renameat", "dd"), 316: ("renameat2", "dd"),
    83: ("mkdir", "p"), 258: ("mkdirat", "d"), 84: ("rmdir", "p"), 87: ("unlink", "p"), 263: ("unlinkat", "d"),
    86: ("link", "pp"), 265: ("linkat", "dd"), 88: ("symlink", "-p"), 266: ("symlinkat", "-d"),
    90: ("chmod", "p"), 91: ("fchmod", "f"), 268: ("fchmodat", "d"),
}  # fmt: skip
_OPEN_FLAGS = {"open": 1, "openat": 2}  # at which argument they are
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_SYNCS, _MOVES = ("fsync", "fdatasync"), ("rename", "renameat", "renameat2")
_MAKES = ("open", "openat", "openat2", "creat", "mkdir", "mkdirat", "link", "linkat", "symlink", "symlinkat")
_WRITES = ("write", "pwrite64", "writev", "sendfile", "pwritev", "pwritev2", "copy_file_range", "fallocate",
           "ftruncate", "truncate")  # fmt: skip


@dataclass(frozen=True)
class Call:
    """A system call that changes something, and the paths that it names, relative to the folder."""

    name: str
    paths: tuple[str, ...]
    exchange: bool = False

    def __str__(self) -> str:
        return f"{self.name} {' '.join(self.paths)}"


@dataclass
class Run:
    """A run's calls, how it ended (None: killed), and what a power loss could still undo."""

    folder: Path
    calls: list[Call] = field(default_factory=list)
    exit_code: int | None = None
    mistakes: list[str] = field(default_factory=list)
    _flushed: dict[str, int] = field(default_factory=dict)  # files made here: the length that was flushed
    _written: dict[str, int] = field(default_factory=dict)  # files written and not flushed: the length that was
    _named: set[str] = field(default_factory=set)  # directories with new names that are not flushed
    _moved: set[str] = field(default_factory=set)  # those of them in which something was renamed

    def tear(self) -> None:
        """Cut what was written and not flushed in half."""
        for path, flushed in self._written.items():
            place = self.folder / path
            if place.is_file():
                os.truncate(place, flushed + (place.stat().st_size - flushed) // 2)

    def unflushed(self) -> list[str]:
        """What is there and a power loss could undo."""
        return sorted({path for path in (*self._written, *self._named) if (self.folder / path).exists()})

    def note(self, call: Call) -> None:
        """Take a call into the account; it is about to be made."""
        self.calls.append(call)
        path = call.paths[-1]
        place = self.folder / path
        if call.name in _MOVES:
            self._move(call)
        elif call.name in _SYNCS:
            self._named.discard(path)
            self._moved.discard(path)
            self._written.pop(path, None)
            if place.is_file():
                self._flushed[path] = place.stat().st_size
        elif call.name in _MAKES and not place.exists():
            self._named.add(posixpath.dirname(path) or ".")
            self._flushed[path] = 0
        elif call.name in _WRITES:
            length = place.stat().st_size if place.is_file() else 0
            self._written.setdefault(path, self._flushed.get(path, length))

    def _move(self, call: Call) -> None:
        source, target = call.paths
        if self._moved:
            self.mistakes.append(f"{call}, while an earlier rename in {sorted(self._moved)} is not flushed")
        lost = sorted(path for path in (*self._written, *self._named) if _below(path, source))
        if lost:
            self.mistakes.append(f"{call}, while {lost} is not flushed")
        for lengths in (self._flushed, self._written):
            sides = [(source, target), (target, source)] if call.exchange else [(source, target)]
            moved = [(old, new, path) for old, new in sides for path in lengths if _below(path, old)]
            renamed = {new + path[len(old) :]: lengths[path] for old, new, path in moved}
            for _, _, path in moved:
                del lengths[path]
            lengths.update(renamed)
        parents = {posixpath.dirname(path) or "." for path in (source, target)}
        self._named |= parents
        self._moved |= parents


def _below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def run(action: Callable[[], int], folder: Path, kill_at: int | None = None) -> Run:
    """Run `action` in a child; kill it at number `kill_at` (from 0) of its calls that change something in `folder`.

    Raises:
        OSError: this process may not trace its children.
    """
    child = os.fork()
    if not child:
        _live(action)
    result = Run(folder.resolve())
    try:
        for call in _calls(child, result):
            if len(result.calls) == kill_at:
                break
            result.note(call)
    finally:
        if result.exit_code is None:
            os.kill(child, signal.SIGKILL)
            while True:  # the threads end before the process does
                ended, status = os.waitpid(-1, _WALL)
                if ended == child and not os.WIFSTOPPED(status):
                    break
    return result


def _live(action: Callable[[], int]) -> None:
    """The child's life, which ends here."""
    code = 99
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _ptrace(_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _stop_at(_CALLS)
        code = action()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


_WALL = 0x40000000  # waitpid: threads too
_TRACEME, _CONT, _SETOPTIONS, _GET_SYSCALL_INFO = 0, 7, 0x4200, 0x420E
_OPTIONS = 0x100000 | 0x80 | 0x08 | 0x04 | 0x02  # EXITKILL, TRACESECCOMP, TRACECLONE, TRACEVFORK, TRACEFORK
_SECCOMP_STOP = signal.SIGTRAP | 7 << 8
_AT_FDCWD, _EXCHANGE = 0xFFFFFF9C, 2


def _calls(child: int, result: Run) -> Iterator[Call]:
    """The calls of the child and all its threads in `result.folder`, each before it is made; sets the exit code."""
    os.waitpid(child, 0)
    _ptrace(_SETOPTIONS, child, 0, _OPTIONS)
    _ptrace(_CONT, child, 0, 0)
    known = {child}
    buffer = ctypes.create_string_buffer(88)
    while True:
        thread, status = os.waitpid(-1, _WALL)
        if not os.WIFSTOPPED(status):
            if thread == child:
                result.exit_code = os.waitstatus_to_exitcode(status)
                return
            continue
        deliver = 0
        if status >> 8 == _SECCOMP_STOP:
            _ptrace(_GET_SYSCALL_INFO, thread, len(buffer), ctypes.addressof(buffer))
            call = _call(thread, *struct.unpack_from("<7Q", buffer.raw, 24), folder=str(result.folder))
            if call is not None:
                yield call
        elif os.WSTOPSIG(status) != signal.SIGTRAP and thread in known:
            deliver = os.WSTOPSIG(status)
        known.add(thread)  # a new thread's first stop is ptrace's own
        _ptrace(_CONT, thread, 0, deliver)


def _call(thread: int, number: int, *arguments: int, folder: str) -> Call | None:
    name, kinds = _CALLS[number]
    if name in _OPEN_FLAGS and not arguments[_OPEN_FLAGS[name]] & _WRITING:
        return None
    paths, at = [], 0
    for kind in kinds:
        if kind == "f":
            paths.append(_link(thread, f"fd/{arguments[at] & 0xFFFFFFFF}"))
        elif kind == "p":
            paths.append(posixpath.join(_link(thread, "cwd"), _text(thread, arguments[at])))
        elif kind == "d":
            above = arguments[at] & 0xFFFFFFFF
            base = _link(thread, "cwd" if above == _AT_FDCWD else f"fd/{above}")
            paths.append(posixpath.join(base, _text(thread, arguments[at + 1])))
            at += 1
        at += 1
    paths = [posixpath.normpath(path) for path in paths]
    if not any(_below(path, folder) for path in paths):
        return None
    relative = tuple(posixpath.relpath(path, folder) for path in paths)
    return Call(name, relative, name == "renameat2" and bool(arguments[4] & _EXCHANGE))


def _link(thread: int, name: str) -> str:
    try:
        return str(Path(f"/proc/{thread}/{name}").readlink())
    except OSError:
        return "/"  # a descriptor that is not open: the call will fail


def _text(thread: int, address: int) -> str:
    """The string at an address, read page by page."""
    data = b""
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        while b"\0" not in data:
            memory.seek(address + len(data))
            data += memory.read(4096 - (address + len(data)) % 4096)
    return os.fsdecode(data.split(b"\0", 1)[0])


def _stop_at(numbers: Iterator[int] | dict[int, tuple[str, str]]) -> None:
    """From here on the kernel stops this process, and every thread of it, before system calls of these numbers."""
    wanted = list(numbers)
    load, equals, give = 0x20, 0x15, 0x06  # of seccomp_data, whose first word is the number
    program = [(load, 0, 0, 0)]
    program += [(equals, len(wanted) - at, 0, number) for at, number in enumerate(wanted)]
    program += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x7FF00000)]  # ALLOW, TRACE
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *line) for line in program))
    filters = struct.pack("<H6xQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filter_mode, filters):
        raise OSError(ctypes.get_errno(), "this process may not filter its system calls")


def _ptrace(request: int, thread: int, address: int, data: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    if libc.ptrace(request, thread, address, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace: {os.strerror(ctypes.get_errno())}")
