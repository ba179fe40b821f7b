"""What a measurement was taken on: CPU, memory, clocks, temperatures and power mode, as far as the system tells.

Read from sysfs and procfs, without a service and without root. Any file may be missing, unreadable or garbage: what
can't be read is left out. Trust measured times first; clocks and temperatures are a hint why they are as they are.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["machine_facts"]

_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13")
_GPUS = ("*gpu*", "*ga10b*", "*gv11b*")  # the names of Jetson's graphics clock over the JetPack versions
_MOST_BYTES = 1 << 16
_SYSTEMS_ON_CHIP = {"nvidia,tegra234": "8.7", "nvidia,tegra264": "11.0"}  # Orin, Thor: their GPUs' compute capabilities
_LARGEST = 1 << 53  # a number beyond it is garbage, and not every JSON reader could keep it


def machine_facts(root: Path = Path("/")) -> dict[str, Any]:
    """What the system below `root` says about itself; JSON values only, and only facts that could be read.

    Keys: device, compute_capability (of the first GPU), l4t, architecture, kernel, python, packages, cpu (model,
    cores_usable, cores_quota, clocks by policy: governor and MHz), memory_mb, power_mode (name, id), gpu_clocks_mhz,
    temperatures_c (hottest zone of each type) and cooling (highest state of each type; above 0 means that the system is
    slowing something down).
    """
    memory = re.search(r"^MemTotal:\s*(\d{1,15}) kB", _text(root / "proc/meminfo") or "", re.MULTILINE)
    facts = {
        "device": _text(root / "proc/device-tree/model"),
        "compute_capability": _compute_capability(root),
        "l4t": _first_line(_text(root / "etc/nv_tegra_release")),
        "architecture": platform.machine() or None,
        "kernel": _text(root / "proc/sys/kernel/osrelease"),
        "python": platform.python_version(),
        "packages": _packages(),
        "cpu": _cpu(root),
        "memory_mb": int(memory[1]) // 1024 if memory else None,
        "power_mode": _power_mode(root / "usr/sbin/nvpmodel"),
        "gpu_clocks_mhz": _gpu_clocks(root / "sys/class/devfreq"),
        "temperatures_c": _by_type(root / "sys/class/thermal", "thermal_zone*", "temp", -60_000, 200_000, 1000),
        "cooling": _by_type(root / "sys/class/thermal", "cooling_device*", "cur_state", 0, 1_000_000, 1),
    }
    return _known(facts)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except (OSError, ValueError):
        return b""


def _text(path: Path) -> str | None:
    text = "".join(char for char in _bytes(path).decode("utf-8", "replace") if char.isprintable() or char in "\n\t")
    return text.strip() or None


def _first_line(text: str | None) -> str | None:
    return text.splitlines()[0][:200] if text else None


def _integer(path: Path, low: int = 0, high: int = _LARGEST) -> int | None:
    try:
        value = int(_text(path) or "")
    except ValueError:
        return None
    return value if low <= value <= high else None


def _folders(parent: Path, pattern: str) -> list[Path]:
    try:
        return sorted(parent.glob(pattern))
    except OSError:
        return []


def _known(facts: dict[str, Any]) -> dict[str, Any]:
    """The same without what is not known, at any level."""
    known = {name: _known(value) if isinstance(value, dict) else value for name, value in facts.items()}
    return {name: value for name, value in known.items() if value is not None and value != {}}


def _packages() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu(root: Path) -> dict[str, Any]:
    information = _text(root / "proc/cpuinfo") or ""
    model = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.{1,200})", information, re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(0x[0-9a-fA-F]{1,8})", information, re.MULTILINE)
    megahertz = re.search(r"^cpu MHz\s*:\s*(\d{1,6})", information, re.MULTILINE)
    clocks: dict[str, Any] = {
        policy.name: {
            "governor": _first_line(_text(policy / "scaling_governor")),
            **{name: _scaled(policy / f"scaling_{name}_freq", 1000) for name in ("cur", "min", "max")},
        }
        for policy in _folders(root / "sys/devices/system/cpu/cpufreq", "policy*")
    }
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "model": model[1].strip() if model else f"Arm part {part[1]}" if part else None,
        "cores_usable": len(affinity(0)) if affinity else os.cpu_count(),
        "cores_quota": _quota(_text(root / "sys/fs/cgroup/cpu.max") or ""),
        "mhz": int(megahertz[1]) if megahertz else None,
        "clocks_mhz": clocks,
    }


def _quota(text: str) -> float | None:
    """Cores that a container may use by time, from cgroup v2's "quota period" (a quota of "max" is no limit)."""
    match = re.fullmatch(r"(\d{1,12}) (\d{1,12})", text)
    return round(int(match[1]) / int(match[2]), 3) if match and int(match[2]) else None


def _scaled(path: Path, divisor: int) -> int | None:
    value = _integer(path)
    return None if value is None else value // divisor


def _gpu_clocks(parent: Path) -> dict[str, Any]:
    folders = {folder.name: folder for pattern in _GPUS for folder in _folders(parent, pattern)}
    return {
        name: {clock: _scaled(folder / f"{clock}_freq", 1_000_000) for clock in ("cur", "min", "max")}
        for name, folder in sorted(folders.items())
    }


def _by_type(parent: Path, pattern: str, name: str, low: int, high: int, divisor: int) -> dict[str, float]:
    """The highest value of each type; values outside `low`..`high` are what a sensor without power gives."""
    found: dict[str, float] = {}
    for folder in _folders(parent, pattern):
        kind, value = _first_line(_text(folder / "type")), _integer(folder / name, low, high)
        if kind is not None and value is not None:
            scaled = value / divisor if divisor > 1 else value
            found[kind] = max(scaled, found.get(kind, scaled))
    return found


def _compute_capability(root: Path) -> str | None:
    """Of Jetson's own GPU, by the name of its chip; of any other, as its driver says."""
    compatible = _bytes(root / "proc/device-tree/compatible").decode("ascii", "replace").split("\0")
    for name, capability in _SYSTEMS_ON_CHIP.items():
        if name in compatible:
            return capability
    text = _output(root / "usr/bin/nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")
    match = re.match(r"\d{1,2}\.\d$", text, re.MULTILINE)
    return match[0] if match else None


def _power_mode(program: Path) -> dict[str, Any]:
    """Jetson's power mode; `nvpmodel -q` prints its name and, on a line of its own, its number."""
    text = _output(program, "-q")
    name, number = re.search(r"NV Power Mode:[ \t]*(\S.{0,99})", text), re.search(r"^(\d{1,4})\s*$", text, re.MULTILINE)
    return {"name": name[1].strip() if name else None, "id": int(number[1]) if number else None}


def _output(program: Path, *words: str) -> str:
    """What a program prints; nothing if it isn't there, or takes too long."""
    try:
        result = subprocess.run(
            [program, *words], stdin=subprocess.DEVNULL, capture_output=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return result.stdout[:_MOST_BYTES].decode("utf-8", "replace")
