"""Safetensors files that are either whole or not there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jetson_runtime.console import require
from jetson_runtime.files import storage_errors

__all__ = ["save_tensors"]


def save_tensors(file: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write torch `tensors` beside `file` and rename them into place.

    Raises:
        StorageError: they can't be written; what was there before is still there.
    """
    save_file = require("safetensors.torch", "realign").save_file
    failure = require("safetensors", "realign").SafetensorError
    partial = file.with_name(f".{file.name}.partial")
    with storage_errors(file):
        try:
            save_file({name: value.contiguous() for name, value in tensors.items()}, str(partial), dict(metadata))
            partial.chmod(0o644)
            partial.replace(file)
        except failure as error:
            # safetensors has an error class of its own, and tells the operating system's number in the text alone.
            number = re.search(r"os error (\d+)", str(error))
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
        finally:
            partial.unlink(missing_ok=True)
