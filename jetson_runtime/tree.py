"""The files of a bundle against its manifest: exactly those, regular, of that length and digest."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from jetson_runtime.errors import BundleError, DigestError
from jetson_runtime.files import open_regular, sha256_of
from jetson_runtime.manifest import ENVELOPE, MANIFEST, FileRecord

__all__ = ["BOM", "PROFILES", "REPORTS", "check_tree", "remove_leftovers"]

PROFILES = "profiles"
REPORTS = "reports"
BOM = "bom.cdx.json"

_REMEDY = "copy or build the bundle again; do not use this one"
_MOST_THREADS = 4
# What a write into an unsigned bundle leaves when it is interrupted; nothing ever reads it, the next write removes it.
_LEFTOVER = re.compile(
    rf"{re.escape(BOM)}|({PROFILES}|{REPORTS})/[^/]+\.[0-9a-f]{{12}}\.json|(({PROFILES}|{REPORTS})/)?\.[^/]+\.json\.partial"
)
# Signing is the only write into a signed bundle.
_SIGNED_LEFTOVER = re.compile(re.escape(f".{ENVELOPE}.partial"))


def check_tree(folder: Path, files: Mapping[str, FileRecord], *, signed: bool) -> None:
    """Check everything below `folder`: first what is there, then every length, then every digest.

    Raises:
        BundleError: something lies there that the manifest does not list, or something can't be read.
        DigestError: a file is missing, is a link or no file, or is not the one that was built.
    """
    tree = _Tree(folder, files)
    try:
        tree.check_kinds()
        tree.check_unlisted(signed)
        tree.check_lengths()
        tree.check_digests()
    except OSError as error:
        raise BundleError(
            f"{folder} can't be read", found=f"{error.filename}: {error.strerror}", remedy="check the permissions"
        ) from None


def remove_leftovers(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """Remove what interrupted writes left in an unsigned bundle, and what a new manifest no longer lists."""
    tree = _Tree(folder, files)
    for path in sorted(tree.unlisted(), reverse=True):  # what is in a directory before the directory
        if tree.is_leftover(path, signed=False):
            (os.rmdir if stat.S_ISDIR(tree.found[path].st_mode) else os.unlink)(folder / path)


@dataclass(frozen=True)
class _Tree:
    folder: Path
    files: Mapping[str, FileRecord]

    @cached_property
    def directories(self) -> set[str]:
        """Those in which a listed file lies."""
        return {parent.as_posix() for path in self.files for parent in PurePosixPath(path).parents}

    @cached_property
    def found(self) -> dict[str, os.stat_result]:
        """What lies below the folder, by relative path; directories where nothing of ours may lie are not entered."""
        return dict(self._walk())

    def _walk(self) -> Iterator[tuple[str, os.stat_result]]:
        waiting = [""]
        while waiting:
            above = waiting.pop()
            with os.scandir(self.folder / above) as entries:
                for entry in entries:
                    path, facts = f"{above}{entry.name}", entry.stat(follow_symlinks=False)
                    yield path, facts
                    if stat.S_ISDIR(facts.st_mode) and path in {*self.directories, PROFILES, REPORTS}:
                        waiting.append(f"{path}/")

    def unlisted(self) -> set[str]:
        """What no bundle has by itself and the manifest does not list."""
        others = self.found.keys() - self.files.keys() - {MANIFEST, ENVELOPE}
        return {path for path in others if not (path in self.directories and stat.S_ISDIR(self.found[path].st_mode))}

    def is_leftover(self, path: str, signed: bool) -> bool:
        """Whether an interrupted write of ours may have left it."""
        if stat.S_ISDIR(self.found[path].st_mode):
            return not signed and path in (PROFILES, REPORTS)
        return (_SIGNED_LEFTOVER if signed else _LEFTOVER).fullmatch(path) is not None

    def check_kinds(self) -> None:
        """Every listed file is there, and nothing at all is a link, a pipe or a device."""
        for path, facts in sorted(self.found.items()):
            if stat.S_ISLNK(facts.st_mode):
                raise self._not_there(path, "a symbolic link")
            if not stat.S_ISREG(facts.st_mode) and (path in self.files or not stat.S_ISDIR(facts.st_mode)):
                raise self._not_there(path, "no regular file")
        for path in sorted(self.files.keys() - self.found.keys()):
            raise self._not_there(path, "nothing")

    def _not_there(self, path: str, found: str) -> DigestError:
        if path not in self.files:
            what, expected = f"{self.folder} holds what is no file: {path!r}", "only regular files and directories"
        else:
            what, expected = f"{self.folder / path} is not there", f"a file of {self.files[path].size_bytes} bytes"
        return DigestError(what, found=found, expected=expected, remedy=_REMEDY)

    def check_unlisted(self, signed: bool) -> None:
        """Nothing lies there that the manifest does not list."""
        for path in sorted(self.unlisted()):
            if not self.is_leftover(path, signed):
                raise BundleError(
                    f"{self.folder} holds something that its manifest does not list",
                    found=repr(path),
                    expected="only what the manifest lists",
                    remedy="take it out of the bundle, if you know that it does not belong there",
                )

    def check_lengths(self) -> None:
        """Every file has its length."""
        for path, record in self.files.items():
            if self.found[path].st_size != record.size_bytes:
                raise DigestError(
                    f"{self.folder / path} does not have the length in the manifest",
                    found=f"{self.found[path].st_size} bytes",
                    expected=f"{record.size_bytes} bytes",
                    remedy=_REMEDY,
                )

    def check_digests(self) -> None:
        """Every file has its digest. Largest first, in threads: hashing does not hold the interpreter's lock."""
        paths = sorted(self.files, key=lambda path: (-self.files[path].size_bytes, path))
        with ThreadPoolExecutor(min(_MOST_THREADS, len(os.sched_getaffinity(0)))) as pool:
            for path, digest in zip(paths, pool.map(self._digest, paths), strict=True):
                if digest != self.files[path].sha256:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise DigestError(
                        f"{self.folder / path} is not the file that was built",
                        found=f"sha256 {digest}",
                        expected=f"sha256 {self.files[path].sha256}",
                        remedy=_REMEDY,
                    )

    def _digest(self, path: str) -> str:
        try:
            with open_regular(self.folder / path) as file:
                return sha256_of(file)
        except ValueError as error:  # it was a regular file a moment ago
            return f"of {error}"
