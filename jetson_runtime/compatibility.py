"""Whether a bundle's engines are for this machine. A portable bundle runs anywhere; compiled engines do not.

TensorRT engines hold for one compute capability and one version of the library (NVIDIA TensorRT developer guide,
"Version Compatibility" and "Hardware Compatibility", without the modes that trade speed for more).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jetson_runtime.errors import BundleError
from jetson_runtime.machine import machine_facts
from jetson_runtime.manifest import Manifest

__all__ = ["Machine", "check_target", "this_machine"]

_PACKAGES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}  # the package that runs a compiler's engines
_JETPACKS = {"36.4": "6.2", "38.2": "7.0", "39": "7.2"}  # by release of Jetson Linux (L4T)


@dataclass(frozen=True)
class Machine:
    """What engines must fit: the versions of the libraries that run them, the GPU, the JetPack. None: not known."""

    compilers: Mapping[str, str]
    compute_capability: str | None = None
    jetpack: str | None = None


def this_machine(facts: Mapping[str, Any] | None = None) -> Machine:
    """This machine, or the one that `machine_facts` told about."""
    facts = machine_facts() if facts is None else facts
    packages = facts.get("packages", {})
    release = re.match(r"# R(\d+) \(release\), REVISION: (\d+)", facts.get("l4t", ""))
    jetpack = None
    if release:
        jetpack = _JETPACKS.get(f"{release[1]}.{release[2]}") or _JETPACKS.get(release[1])
    return Machine(
        compilers={compiler: packages[name] for compiler, name in _PACKAGES.items() if name in packages},
        compute_capability=facts.get("compute_capability"),
        jetpack=jetpack,
    )


def check_target(manifest: Manifest, machine: Machine) -> None:
    """Check an engine bundle's target against a machine.

    Raises:
        BundleError: the engines are for another machine; says everything that differs.
    """
    if manifest.kind == "portable":
        return
    differences = list(_differences(manifest.target, machine))
    if differences:
        raise BundleError(
            f"the engines were compiled for target '{manifest.target.get('name')}', and this machine is another",
            found="; ".join(found for found, _ in differences),
            expected="; ".join(expected for _, expected in differences),
            remedy="compile the portable bundle again, on this machine or for its target: "
            "engine-build compile BUNDLE --target TARGET --out DIR",
        )


def _differences(target: Mapping[str, Any], machine: Machine) -> Iterator[tuple[str, str]]:
    """What differs, as found and expected."""
    compiler, version = str(target.get("compiler")), str(target.get("compiler_version"))
    installed = machine.compilers.get(compiler)
    if installed is None:
        yield f"no {compiler} is installed", f"{compiler} {version}"
    elif _short(installed) != _short(version):
        yield f"{compiler} {installed}", f"{compiler} {version}"
    capability = target.get("compute_capability")
    if capability != machine.compute_capability:
        yield f"a GPU of compute capability {machine.compute_capability or 'unknown'}", f"one of {capability}"
    jetpacks = target.get("jetpacks") or []
    if jetpacks and machine.jetpack not in jetpacks:
        yield f"JetPack {machine.jetpack or 'unknown'}", f"JetPack {' or '.join(map(str, jetpacks))}"


def _short(version: str) -> list[str]:
    """Major, minor and patch: the library tells a build number behind them, and its package not always."""
    return version.split(".")[:3]
