"""JSON that decides about trust: read only if it is, byte for byte, the one text that `canonical_json` writes.

So nobody can hide a second meaning in it: no key twice, no odd spelling of a number or a letter, no bytes that another
reader would skip. Size and nesting are bounded before anything is built from the value.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import HoldfastError
from jetson_runtime.files import canonical_json, open_regular

__all__ = ["MAX_DEPTH", "Document"]

MAX_DEPTH = 32
_SHOWN = 80  # characters of a hostile text in a message


class _DuplicateKeyError(ValueError):
    """A key that stands twice in one object."""


@dataclass(frozen=True)
class Document:
    """One kind of strict JSON file: what it is called, how long it may be, which error says that one is refused."""

    name: str
    max_bytes: int
    error: type[HoldfastError]
    remedy: str

    def read(self, path: Path) -> bytes | None:
        """The bytes of the file at `path`, None if nothing lies there.

        Raises:
            HoldfastError: this kind's error, for a link, something that is no file, one too large or not readable.
        """
        try:
            with io.BufferedReader(open_regular(path)) as file:
                data = file.read(self.max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._refuse(f"{path} can't be read", found=error.strerror) from None
        except ValueError as error:
            raise self._refuse(f"{path} can't be read", found=error, expected="a regular file") from None
        self._check_size(data, str(path))
        return data

    def parse(self, data: bytes, where: str) -> Any:
        """The value that the bytes are the canonical text of; `where` names them in messages.

        Raises:
            HoldfastError: this kind's error: too large, not UTF-8, not JSON, a key twice, nested too deeply, or not
                canonical.
        """
        self._check_size(data, where)
        try:
            text = data.decode("utf-8")
            value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            raise self._refuse(f"{where} is not UTF-8", found=f"byte {error.start}: {error.reason}") from None
        except RecursionError:
            raise self._too_deep(where) from None
        except _DuplicateKeyError as error:
            raise self._refuse(f"{where} has a key twice", found=error, expected="every key once") from None
        except ValueError as error:
            raise self._refuse(f"{where} is not JSON", found=error) from None
        if _deeper_than(value, MAX_DEPTH):
            raise self._too_deep(where)
        if not _is_canonical(value, text):
            raise self._refuse(
                f"{where} is not in the canonical form",
                found="other spaces, escapes, numbers or another order than Holdfast writes",
                expected="sorted keys, one space of indentation, a newline at the end",
            )
        return value

    def _check_size(self, data: bytes, where: str) -> None:
        if len(data) > self.max_bytes:
            raise self._refuse(
                f"{where} is too large for a {self.name}",
                found=f"more than {self.max_bytes} bytes",
                expected=f"at most {self.max_bytes} bytes",
            )

    def _too_deep(self, where: str) -> HoldfastError:
        return self._refuse(f"{where} is nested too deeply", expected=f"at most {MAX_DEPTH} levels")

    def _refuse(self, what: str, *, found: object = None, expected: object = None) -> HoldfastError:
        return self.error(what, found=found, expected=expected, remedy=self.remedy)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for key, value in pairs:
        if key in made:
            raise _DuplicateKeyError(repr(key[:_SHOWN]))
        made[key] = value
    return made


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _deeper_than(value: Any, levels: int) -> bool:
    level: list[Any] = [value]
    for _ in range(levels):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return any(isinstance(item, (dict, list)) for item in level)


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _is_canonical(value: Any, text: str) -> bool:
    try:
        return canonical_json(value) == text
    except ValueError:  # a number that overflowed to infinity, or one with too many digits
        return False
