"""Every target is checked against what its maker publishes."""

from __future__ import annotations

import pytest

from engine_builder.compile import COMPILERS
from engine_builder.config import PRECISIONS
from engine_builder.targets import load_target, target_names
from jetson_runtime.errors import ConfigError

# name: compute capability, GiB, GB/s, from the public data sheets of the modules.
JETSONS = {
    "orin-agx": ("8.7", 64, 204.8),
    "orin-agx-32": ("8.7", 32, 204.8),
    "orin-nx-16": ("8.7", 16, 102.4),
    "orin-nx-8": ("8.7", 8, 102.4),
    "orin-nano-8": ("8.7", 8, 102),
    "orin-nano-4": ("8.7", 4, 51),
    "agx-thor": ("11.0", 128, 273),
}
OTHERS = {"cpu": None, "rtx-sm86": "8.6", "rtx-sm89": "8.9", "rtx-sm120": "12.0"}


def test_the_two_lists_cover_every_target() -> None:
    assert sorted([*JETSONS, *OTHERS]) == target_names()


@pytest.mark.parametrize("name", JETSONS)
def test_jetson_target_is_its_data_sheet(name: str) -> None:
    target = load_target(name)
    assert (target.compute_capability, target.memory_gib, target.memory_bandwidth_gb_s) == JETSONS[name]
    assert target.compiler == "tensorrt"
    assert 0 < (target.os_reserve_gib or 0) <= (target.memory_gib or 0) / 4
    orin = {"6.2": "10.3", "7.2": "10.16"}
    assert target.jetpacks == (orin if target.compute_capability == "8.7" else {"7.2": "10.16"})


@pytest.mark.parametrize("name", OTHERS)
def test_other_targets_state_no_board(name: str) -> None:
    target = load_target(name)
    assert target.compute_capability == OTHERS[name]
    assert target.memory_gib is None and target.os_reserve_gib is None and not target.jetpacks
    assert target.compiler == ("onnxruntime" if name == "cpu" else "tensorrt-rtx")


@pytest.mark.parametrize("name", target_names())
def test_precisions_are_ones_that_can_be_built(name: str) -> None:
    target = load_target(name)
    assert target.precisions and set(target.precisions) <= set(PRECISIONS)
    assert target.title and target.notes


def test_every_compiler_has_a_target() -> None:
    assert set(COMPILERS) <= {load_target(name).compiler for name in target_names()}


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="no target 'orin-x'") as caught:
        load_target("orin-x")
    assert "orin-agx" in str(caught.value)
