"""Cutting a sweep into units: whatever is there already, everything missing is planned, once, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing import signed
from sweeping import PROMPTS, SweepFolder, make_folder

from jetson_runtime.errors import AdmissionError, BundleError, ConfigError, InputError
from refusal_suite.fleet.plan import Plan
from refusal_suite.fleet.store import UnitStore
from refusal_suite.fleet.unit import Unit


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Callable[[str, str], Path]) -> SweepFolder:
    return make_folder(tmp_path, tiny_bundle("clip-llama", "fp32"))


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Callable[[str, str], Path]) -> Callable[[int], Plan]:
    """A plan of every depth and schedule, in chunks of so many prompts."""
    folder = make_folder(tmp_path_factory.mktemp("sweep"), tiny_bundle("clip-llama", "fp32"))
    return lambda chunk: folder.plan(schedules="all", chunk=chunk)


def wanted(plan: Plan) -> dict[str, set[str]]:
    """By group, the ids of all prompts that the reports need."""
    needed: dict[str, set[str]] = {}
    for target in plan.targets:
        for point in target.points:
            for asked in plan.sets:
                for part in asked.parts:
                    group = plan.group(target, point, asked, picture=part.image is not None).group
                    needed.setdefault(group, set()).add(part.id)
    return needed


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chunk=st.integers(1, PROMPTS + 1), there=st.sets(st.integers(0, 30)), other=st.integers(1, PROMPTS))
def test_what_is_missing_is_planned_once(
    plans: Callable[[int], Plan],
    tmp_path_factory: pytest.TempPathFactory,
    chunk: int,
    there: set[int],
    other: int,
) -> None:
    store = UnitStore(tmp_path_factory.mktemp("units"))
    for number, job in enumerate(list(plans(other).jobs(store))):
        if number in there:
            store.keep(job.unit, [{"id": part.id} for part in job.unit.parts])
    plan = plans(chunk)
    left = {group: ids - {part.id for part in store.known(_any_of(plan, group))} for group, ids in wanted(plan).items()}

    planned: dict[str, list[str]] = {}
    for job in plan.jobs(store):
        assert 1 <= len(job.unit.parts) <= chunk
        assert [part.id for part in job.unit.parts] == [prompt.id for prompt in job.prompts]
        planned.setdefault(job.unit.group, []).extend(part.id for part in job.unit.parts)

    assert {group: sorted(ids) for group, ids in planned.items()} == {
        group: sorted(ids) for group, ids in left.items() if ids
    }


def _any_of(plan: Plan, group: str) -> Unit:
    units = [
        plan.group(target, point, asked, picture=picture)
        for target in plan.targets
        for point in target.points
        for asked in plan.sets
        for picture in (False, True)
    ]
    return next(unit for unit in units if unit.group == group)


def test_a_part_that_is_there_changes_no_other_chunk(plans: Callable[[int], Plan], tmp_path: Path) -> None:
    plan, store = plans(3), UnitStore(tmp_path)
    first, *others = plan.jobs(store)
    store.keep(first.unit, [{"id": part.id} for part in first.unit.parts])

    assert [job.unit.key for job in plan.jobs(store)] == [job.unit.key for job in others]


def test_the_same_engines_under_two_names_are_one_s_work(folder: SweepFolder, tmp_path: Path) -> None:
    both = {"one": str(folder.bundle), "two": str(folder.bundle)}
    store = UnitStore(tmp_path / "units")

    assert [job.unit.key for job in folder.plan(bundles=both).jobs(store)] == [
        job.unit.key for job in folder.plan().jobs(store)
    ]


def test_another_picture_or_set_is_another_unit(folder: SweepFolder, tmp_path: Path) -> None:
    from PIL import Image

    def keys() -> set[str]:
        return {job.unit.key for job in folder.plan().jobs(UnitStore(tmp_path / "units"))}

    before = keys()
    Image.new("RGB", (28, 28), "red").save(folder.path / "shapes.png")
    picture = keys()
    with (folder.path / "set.csv").open("a") as file:
        file.write("p99,more,benign,c1,\n")

    assert before & picture and before - picture and picture - before
    assert not keys() & picture


def test_the_parcel_carries_the_pictures(folder: SweepFolder, tmp_path: Path) -> None:
    jobs = list(folder.plan().jobs(UnitStore(tmp_path / "units")))
    shown = [job for job in jobs if job.prompts[0].image is not None]

    assert {job.parcel().pictures for job in shown} >= {((folder.path / "shapes.png").read_bytes(),) * 2}
    assert all(set(job.parcel().pictures) == {None} for job in jobs if job not in shown)
    assert not [word for word in ("zq1", "PNG") if word in repr(shown[0].parcel())]


def test_everything_that_a_bundle_lacks_is_reported_at_once(folder: SweepFolder) -> None:
    with pytest.raises(ConfigError) as error:
        folder.plan(depths=["d1", "d9"], schedules=["d2>d1@4", "d1>d2@4"])

    said = str(error.value)
    assert "bundle tiny has no depth 'd9'" in said
    assert "bundle tiny has no schedule 'd1>d2@4'" in said
    assert "'d1'" not in said and "'d2>d1@4'" not in said


def test_what_can_t_be_read_is_our_error(folder: SweepFolder) -> None:
    with pytest.raises(BundleError):
        folder.plan(bundles={"none": "nothing"})
    with pytest.raises(InputError, match="occurs twice"):
        folder.plan(prompts=[{"file": "set.csv"}, {"file": "set.csv"}])
    job = next(job for job in folder.plan().jobs(UnitStore(folder.path / "units")) if job.prompts[0].image)
    (folder.path / "shapes.png").unlink()
    with pytest.raises(InputError, match="picture of prompt 'p0' can't be read"):
        job.parcel()


def test_a_signed_bundle_is_not_for_measuring(folder: SweepFolder, tmp_path: Path) -> None:
    shutil.copytree(folder.bundle, tmp_path / "signed")
    signed(tmp_path / "signed", 1)

    with pytest.raises(AdmissionError, match="is signed"):
        folder.plan(bundles={"tiny": str(tmp_path / "signed")})
