"""Installing a bundle: verified, made for this machine, not older, copied, verified again, healthy; then it serves.

Until the one write that changes `state.json`, nothing that serves was touched; a run that is killed anywhere leaves at
most a half copy in the idle slot, under a name that nothing opens, and the next install removes it.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from jetson_runtime.bundle import ENVELOPE, MANIFEST, Bundle, open_bundle
from jetson_runtime.compatibility import Machine, check_target, this_machine
from jetson_runtime.enforcement import Enforcement
from jetson_runtime.errors import BackendError, DigestError, HoldfastError, InputError, ReleaseError, StorageError
from jetson_runtime.files import copy_file, discard_directory, make_directory, staged_directory, storage_errors
from jetson_runtime.health import HealthCheck, answers_at_every_depth
from jetson_runtime.slots import Root, Slot, State
from jetson_runtime.trust import Trust

__all__ = ["install"]

_BLOCK_BYTES = 4096
_SPARE_BYTES = 1 << 20  # for directories, state and log


def install(
    source: Path,
    root: Path,
    trust: Trust,
    *,
    trial_starts: int = 0,
    health: HealthCheck = answers_at_every_depth,
    machine: Machine | None = None,
) -> State:
    """Install the bundle at `source` into the idle slot of `root` and let it serve, or put it on trial.

    With `trial_starts` the bundle that serves now comes back by itself after that many starts without `confirm`. The
    first bundle of a root has nothing to go back to and is never on trial. `machine` is this one unless it is given.
    Installing the bundle that serves once more is how a damaged slot is repaired.

    Raises:
        BundleError: the bundle is damaged, not signed by keys in `trust`, older than what was confirmed, for another
            machine, or has no admitted depth. BackendError: it is not healthy. InputError: another release is on trial.
            StorageError: no space, or another command is changing the root. Whatever is raised, what served before goes
            on serving.
    """
    place = Root(root)
    with place.locked() as state:
        try:
            return _install(source, place, state, trust, trial_starts, health, machine)
        except HoldfastError as error:
            with suppress(StorageError):  # the disk may be full, and that is not what went wrong first
                place.log("refused", state, error=type(error).__name__, what=error.what)
            raise


def _install(
    source: Path,
    place: Root,
    state: State,
    trust: Trust,
    trial_starts: int,
    health: HealthCheck,
    machine: Machine | None,
) -> State:
    if trial_starts < 0:
        raise InputError("the number of trial starts can't be used", found=trial_starts, expected="0 or more")
    if state.trial is not None:
        raise InputError(
            f"release {state.trial.release} is on trial in {place.path}",
            expected="a root where nothing is on trial",
            remedy="'jetson-runtime confirm' or 'jetson-runtime rollback' it first",
        )
    bundle = _verified(source, place.confirmed(), trust)
    check_target(bundle.manifest, this_machine() if machine is None else machine)
    # A bundle that can't answer is not worth a slot.
    Enforcement.of(bundle, allow_unadmitted=False)
    slot = Slot(state.idle(), bundle.manifest.release, bundle.digest)
    place.log("copying", state, slot=vars(slot))
    copied = _copied(bundle, place.slot(slot.name), trust)
    _check_health(copied, health, state)
    if trial_starts and state.serving is not None:
        return place.change(State(state.serving, slot, trial_starts), "on trial")
    return place.change(State(slot), "confirmed")


def _verified(source: Path, confirmed: Slot | None, trust: Trust) -> Bundle:
    """The bundle at `source`, if it is trusted and may follow what was confirmed."""
    bundle = open_bundle(source, trust, minimum_release=None if confirmed is None else confirmed.release)
    same = confirmed is None or bundle.digest == confirmed.bundle_digest
    if confirmed is not None and not same and bundle.manifest.release == confirmed.release:
        raise ReleaseError(
            f"{source} is another bundle with the number of a release that was installed",
            found=f"release {confirmed.release} with manifest sha256 {bundle.digest}",
            expected=f"manifest sha256 {confirmed.bundle_digest}, or a higher release",
            remedy="raise 'release' in build.yaml, export and sign again",
        )
    return bundle


def _copied(bundle: Bundle, slot: Path, trust: Trust) -> Bundle:
    """The bundle's copy in a slot, read back from the disk and verified by itself."""
    discard_directory(slot)
    sizes = [record.size_bytes for record in bundle.manifest.files.values()]
    names = [*bundle.manifest.files, MANIFEST, ENVELOPE]
    with storage_errors(slot):
        make_directory(slot.parent)
        _check_space(slot.parent, sum(sizes) + _BLOCK_BYTES * len(names) + _SPARE_BYTES)
    try:
        with staged_directory(slot) as folder:
            for parent in {(folder / name).parent for name in names}:
                parent.mkdir(parents=True, exist_ok=True)
            for name in names:
                copy_file(bundle.file(name), folder / name)
    except (FileNotFoundError, ValueError) as error:  # they were regular files a moment ago
        raise _changed(bundle, error) from None
    copied = open_bundle(slot, trust)
    if copied.digest != bundle.digest:
        raise _changed(bundle, f"manifest sha256 {copied.digest}")
    return copied


def _changed(bundle: Bundle, found: object) -> DigestError:
    return DigestError(
        f"{bundle.path} changed while it was copied",
        found=found,
        expected=f"manifest sha256 {bundle.digest}",
        remedy="install it again, from a place that nobody writes to",
    )


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"the bundle does not fit on the disk of {folder}",
            found=f"{free_bytes / 1e6:,.1f} MB free",
            expected=f"{needed_bytes / 1e6:,.1f} MB",
            remedy="free some space, then install again; what served before goes on serving",
        )


def _check_health(copied: Bundle, health: HealthCheck, state: State) -> None:
    try:
        health(copied)
    except Exception as error:  # whatever a backend raises: a bundle that can't answer must not serve
        discard_directory(copied.path)
        serves = "nothing serves yet" if state.serving is None else f"release {state.serving.release} goes on serving"
        raise BackendError(
            f"release {copied.manifest.release} is not healthy on this machine; {serves}",
            found=error.what if isinstance(error, HoldfastError) else repr(error),
            expected="an answer at every depth",
            remedy="try it where it lies: jetson-runtime ask BUNDLE --prompt Hello --depth NAME",
        ) from error
