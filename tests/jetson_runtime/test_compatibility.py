"""Which machine an engine bundle is for. Only the manifest is read, so no engine has to exist."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jetson_runtime.bundle import open_bundle
from jetson_runtime.compatibility import Machine, check_target, this_machine
from jetson_runtime.errors import BundleError
from jetson_runtime.manifest import Manifest

ORIN = Machine({"tensorrt": "10.3.0.30"}, "8.7", "6.2")


@pytest.fixture
def engines(tiny_bundle: Callable[[str, str], Path]) -> Manifest:
    """The manifest of a bundle that was compiled for an Orin with JetPack 6.2."""
    manifest = open_bundle(tiny_bundle("clip-llama", "fp32")).manifest
    target = {
        "name": "orin-agx",
        "compiler": "tensorrt",
        "compiler_version": "10.3.0",
        "compute_capability": "8.7",
        "jetpacks": ["6.2", "7.2"],
    }
    return replace(manifest, kind="engine", target=target)


def test_a_portable_bundle_runs_anywhere(tiny_bundle: Callable[[str, str], Path]) -> None:
    check_target(open_bundle(tiny_bundle("clip-llama", "fp32")).manifest, Machine({}))


def test_an_engine_bundle_runs_where_everything_fits(engines: Manifest) -> None:
    check_target(engines, ORIN)
    check_target(replace(engines, target={**engines.target, "jetpacks": []}), replace(ORIN, jetpack=None))


@pytest.mark.parametrize(
    ("machine", "found", "expected"),
    [
        (replace(ORIN, compilers={}), "no tensorrt is installed", "tensorrt 10.3.0"),
        (replace(ORIN, compilers={"tensorrt": "10.16.1"}), "tensorrt 10.16.1", "tensorrt 10.3.0"),
        (replace(ORIN, compute_capability="11.0"), "compute capability 11.0", "one of 8.7"),
        (replace(ORIN, compute_capability=None), "compute capability unknown", "one of 8.7"),
        (replace(ORIN, jetpack="7.0"), "JetPack 7.0", "JetPack 6.2 or 7.2"),
        (replace(ORIN, jetpack=None), "JetPack unknown", "JetPack 6.2 or 7.2"),
    ],
)
def test_each_difference_has_its_words(engines: Manifest, machine: Machine, found: str, expected: str) -> None:
    with pytest.raises(BundleError, match="target 'orin-agx'") as raised:
        check_target(engines, machine)
    assert raised.value.found is not None and found in raised.value.found and ";" not in raised.value.found
    assert raised.value.expected is not None and expected in raised.value.expected
    assert "engine-build compile" in str(raised.value)


def test_all_differences_are_told_at_once(engines: Manifest) -> None:
    with pytest.raises(BundleError) as raised:
        check_target(engines, Machine({}))
    assert raised.value.found is not None and raised.value.found.count(";") == 2


@pytest.mark.parametrize(
    ("l4t", "jetpack"),
    [
        ("# R36 (release), REVISION: 4.3, GCID: 38968081", "6.2"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "7.0"),
        ("# R39 (release), REVISION: 1.0, GCID: 1", "7.2"),
        ("# R35 (release), REVISION: 4.1, GCID: 1", None),
        ("garbage", None),
    ],
)
def test_what_this_machine_is_comes_from_its_facts(l4t: str, jetpack: str | None) -> None:
    facts = {"l4t": l4t, "packages": {"tensorrt": "10.3.0", "numpy": "2.0"}, "compute_capability": "8.7"}
    assert this_machine(facts) == Machine({"tensorrt": "10.3.0"}, "8.7", jetpack)


def test_a_machine_that_says_nothing_runs_no_engines(engines: Manifest) -> None:
    with pytest.raises(BundleError):
        check_target(engines, this_machine({}))
