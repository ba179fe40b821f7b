"""Machine facts from temporary trees: a Jetson, a server, an empty system, and garbage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetson_runtime.machine import machine_facts

ZONES, COOLING = "sys/class/thermal/thermal_zone", "sys/class/thermal/cooling_device"
POLICY = "sys/devices/system/cpu/cpufreq/policy0"
JETSON = {
    "proc/device-tree/model": b"NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/device-tree/compatible": b"nvidia,p3737-0000+p3701-0005\0nvidia,p3701-0005\0nvidia,tegra234\0",
    "etc/nv_tegra_release": b"# R36 (release), REVISION: 4.3, GCID: 38968081\nmore\n",
    "proc/sys/kernel/osrelease": b"5.15.148-tegra\n",
    "proc/meminfo": b"MemTotal:       64349124 kB\nMemFree: 1 kB\n",
    "proc/cpuinfo": b"processor : 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n",
    "sys/class/devfreq/17000000.gpu/cur_freq": b"930750000\n",
    "sys/class/devfreq/17000000.gpu/min_freq": b"306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": b"1300500000\n",
    "sys/class/devfreq/15340000.vic/cur_freq": b"1000000\n",
    f"{POLICY}/scaling_governor": b"schedutil\n",
    f"{POLICY}/scaling_cur_freq": b"2201600\n",
    f"{POLICY}/scaling_max_freq": b"2201600\n",
    f"{ZONES}0/type": b"cpu-thermal\n",
    f"{ZONES}0/temp": b"48500\n",
    f"{ZONES}1/type": b"cv0-thermal\n",
    f"{ZONES}1/temp": b"-256000\n",
    f"{COOLING}0/type": b"cpufreq-cpu0\n",
    f"{COOLING}0/cur_state": b"0\n",
    f"{COOLING}1/type": b"cpufreq-cpu0\n",
    f"{COOLING}1/cur_state": b"3\n",
    "usr/sbin/nvpmodel": b"#!/bin/sh\n[ \"$1\" = -q ] && printf 'NV Power Mode: MODE_30W\\n2\\n'\n",
}


def plant(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for program in ("usr/sbin/nvpmodel", "usr/bin/nvidia-smi"):
        if (root / program).exists():
            (root / program).chmod(0o755)
    return root


def test_a_jetson(tmp_path: Path) -> None:
    facts = machine_facts(plant(tmp_path, JETSON))
    assert facts["device"] == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts["compute_capability"] == "8.7"
    assert facts["l4t"] == "# R36 (release), REVISION: 4.3, GCID: 38968081"
    assert facts["kernel"] == "5.15.148-tegra"
    assert facts["memory_mb"] == 62840
    assert facts["power_mode"] == {"name": "MODE_30W", "id": 2}
    assert facts["gpu_clocks_mhz"] == {"17000000.gpu": {"cur": 930, "min": 306, "max": 1300}}
    assert facts["temperatures_c"] == {"cpu-thermal": 48.5}, "a sensor without power is not a temperature"
    assert facts["cooling"] == {"cpufreq-cpu0": 3}, "the highest state of a type"
    assert facts["cpu"]["model"] == "Arm part 0xd42"
    assert facts["cpu"]["clocks_mhz"] == {"policy0": {"governor": "schedutil", "cur": 2201, "max": 2201}}
    assert facts["cpu"]["cores_usable"] >= 1


def test_a_container_on_a_server(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": b"model name\t: AMD EPYC 9654\ncpu MHz\t\t: 2400.000\n",
        "sys/fs/cgroup/cpu.max": b"150000 100000\n",
    }
    cpu = machine_facts(plant(tmp_path, files))["cpu"]
    assert (cpu["model"], cpu["mhz"], cpu["cores_quota"]) == ("AMD EPYC 9654", 2400, 1.5)


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    facts = machine_facts(tmp_path)
    assert {"python", "packages", "cpu"} <= set(facts)
    assert set(facts["cpu"]) == {"cores_usable"}
    assert not {"device", "memory_mb", "power_mode", "gpu_clocks_mhz", "temperatures_c", "cooling"} & set(facts)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(sorted(set(JETSON) - {"usr/sbin/nvpmodel"})), st.binary(max_size=60)))
def test_garbage_is_left_out_and_never_an_error(tmp_path: Path, garbage: dict[str, bytes]) -> None:
    facts = machine_facts(plant(tmp_path, {**JETSON, **garbage}))
    json.loads(json.dumps(facts, allow_nan=False))
    for zone, celsius in facts.get("temperatures_c", {}).items():
        assert zone and -60 <= celsius <= 200


def test_directories_and_dangling_links_where_files_belong(tmp_path: Path) -> None:
    (tmp_path / "proc/meminfo").mkdir(parents=True)
    (tmp_path / ZONES).parent.mkdir(parents=True)
    (tmp_path / f"{ZONES}0").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sys/class/devfreq").write_text("not a directory")
    assert not {"memory_mb", "temperatures_c", "gpu_clocks_mhz"} & set(machine_facts(tmp_path))


@pytest.mark.parametrize(
    ("script", "capability"),
    [
        (b"#!/bin/sh\n[ \"$1\" = --query-gpu=compute_cap ] && printf '8.6\\n9.0\\n'\n", "8.6"),
        (b"#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n", None),
    ],
)
def test_the_compute_capability_of_a_gpu_is_what_its_driver_says(
    script: bytes, capability: str | None, tmp_path: Path
) -> None:
    facts = machine_facts(plant(tmp_path, {"usr/bin/nvidia-smi": script}))
    assert facts.get("compute_capability") == capability


@pytest.mark.parametrize(
    "script", [b"#!/bin/sh\nexit 3\n", b"\x7fELF garbage", b"#!/bin/sh\nprintf '\\377\\376 nothing\\n'\n"]
)
def test_a_power_mode_that_can_not_be_read_is_left_out(script: bytes, tmp_path: Path) -> None:
    assert "power_mode" not in machine_facts(plant(tmp_path, {"usr/sbin/nvpmodel": script}))


def test_a_real_system_gives_values_that_json_can_keep() -> None:
    assert json.loads(json.dumps(machine_facts(), allow_nan=False))["cpu"]["cores_usable"] >= 1
