"""An install root: two slots for bundles, and one small file that says which of them serves.

    ROOT/slots/a, ROOT/slots/b   a bundle each; the one that does not serve is the idle slot
    ROOT/state.json              the state below, replaced in one step
    ROOT/install.log             what happened (install_log.py)
    ROOT/lock                    held by whoever changes the root

The state machine, where x and y are the two slots:

    empty ───────────── install ────────────► serving x
                                               │   ▲  ▲
      install: a healthy copy in y serves ◄────┤   │  │  rollback, or more starts than the trial has
      (x and y change their roles)             │   │  │
                                               ▼   │  │
             install --trial N ──► serving x, y on trial, N starts left
                                               │
                                            confirm ──► serving y

Every arrow is one replacement of state.json. A bundle that serves was confirmed: that its release is the highest ever
confirmed is the anti-rollback counter, and it never falls, because nothing but a confirmation changes what serves.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jetson_runtime.errors import BundleError, InputError, StorageError
from jetson_runtime.files import make_directory, read_json, storage_errors, write_json
from jetson_runtime.install_log import append, read_log

__all__ = ["LOG", "SLOTS", "STATE", "Root", "Slot", "State", "confirm", "current", "resolve", "rollback"]

SCHEMA = "holdfast/install/1"
SLOTS = ("a", "b")
STATE, LOG, LOCK = "state.json", "install.log", "lock"


@dataclass(frozen=True)
class Slot:
    """A slot by name, and the bundle in it."""

    name: str
    release: int
    bundle_digest: str


@dataclass(frozen=True)
class State:
    """Which slot serves, which is on trial, and how many starts the trial has left."""

    serving: Slot | None = None
    trial: Slot | None = None
    starts_left: int = 0

    def idle(self) -> str:
        """The slot that the next install writes."""
        return SLOTS[1] if self.serving is not None and self.serving.name == SLOTS[0] else SLOTS[0]

    def to_dict(self) -> dict[str, Any]:
        """The value that `state.json` holds."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, value: Any, where: Path) -> State:
        """Read what `to_dict` wrote.

        Raises:
            BundleError: it is something else.
        """
        try:
            serving, trial = (None if value[part] is None else Slot(**value[part]) for part in ("serving", "trial"))
            state = cls(serving, trial, value["starts_left"])
        except (KeyError, TypeError):
            state = None
        if state is None or state.to_dict() != value or not state._holds_together():
            raise BundleError(
                f"{where} is not the state of an install root",
                expected=f"{SCHEMA}, as 'jetson-runtime install' writes it",
                remedy="put back the file from a backup, or install into a new root",
            )
        return state

    def _holds_together(self) -> bool:
        slots = [slot for slot in (self.serving, self.trial) if slot is not None]
        typed = all(type(slot.release) is int and type(slot.bundle_digest) is str for slot in slots)
        names = [slot.name for slot in slots]
        trial = type(self.starts_left) is int and self.starts_left >= 0 and (self.trial is None or len(slots) == 2)
        return typed and trial and set(names) <= set(SLOTS) and len(set(names)) == len(names)


class Root:
    """An install root. Whatever changes it holds its lock; reading it needs none, because the state is one file."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    def slot(self, name: str) -> Path:
        """Where the bundle of a slot lies."""
        return self.path / "slots" / name

    def state(self) -> State:
        """The state; that of an empty root where nothing was installed yet.

        Raises:
            InputError, BundleError: state.json can't be read.
        """
        place = self.path / STATE
        return State.from_dict(read_json(place), place) if os.path.lexists(place) else State()

    def confirmed(self) -> Slot | None:
        """The highest release ever confirmed, by state.json or by the log: removing the one does not lower it."""
        told = [_logged_state(event, self.path / LOG) for event in read_log(self.path / LOG).events]
        slots = [state.serving for state in (self.state(), *told) if state.serving is not None]
        return max(slots, key=lambda slot: slot.release, default=None)

    @contextmanager
    def locked(self, *, wait: bool = False) -> Iterator[State]:
        """Hold the lock and get the state; a change that a power loss kept from being logged is logged now.

        Raises:
            StorageError: another command holds the lock and `wait` is False, or the root can't be written.
        """
        with storage_errors(self.path):
            make_directory(self.path)
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, self.path / LOCK, wait)
            state = self.state()
            events = read_log(self.path / LOG).events
            if (_logged_state(events[-1], self.path / LOG) if events else State()) != state:
                self.log("recovered", state)
            yield state
        finally:
            os.close(descriptor)  # which unlocks it

    def log(self, event: str, state: State, **fields: Any) -> None:
        """Append an event to the log, with the state that holds after it."""
        append(self.path / LOG, event, state=state.to_dict(), **fields)

    def change(self, state: State, event: str, **fields: Any) -> State:
        """Go over to another state, then log it."""
        write_json(self.path / STATE, state.to_dict())
        self.log(event, state, **fields)
        return state


def _logged_state(event: Mapping[str, Any], where: Path) -> State:
    """The state that a line of the log tells; an empty one if it tells none."""
    with suppress(BundleError):
        return State.from_dict(event.get("state"), where)
    return State()


def _lock(descriptor: int, path: Path, wait: bool) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise StorageError(
            f"{path.parent} is being changed by another command",
            found=f"{path} is locked",
            remedy="wait until it has ended",
        ) from None


def resolve(path: Path) -> Path:
    """The bundle to start, for whoever starts the service: a start of a bundle on trial is counted.

    When the trial has no start left, what served before serves again. A start that can't be counted, because the disk
    is full or read-only, is a start of what served before.

    Raises:
        InputError: nothing is installed. BundleError: state.json can't be read.
    """
    root = Root(path)
    state = root.state()
    if state.trial is None or state.serving is None:
        return current(path)
    before = root.slot(state.serving.name)
    try:
        with root.locked(wait=True) as state:
            if state.trial is None or state.serving is None:
                return current(path)
            if state.starts_left == 0:
                root.change(State(state.serving), "rolled back", reason="not confirmed within its starts")
                return before
            root.change(State(state.serving, state.trial, state.starts_left - 1), "start")
            return root.slot(state.trial.name)
    except (StorageError, OSError):
        return before


def current(path: Path) -> Path:
    """The bundle that serves or is on trial, without counting a start.

    Raises:
        InputError: nothing is installed. BundleError: state.json can't be read.
    """
    root = Root(path)
    state = root.state()
    chosen = state.trial if state.trial is not None and state.starts_left else state.serving
    if chosen is None:
        raise InputError(
            f"nothing is installed in {path}",
            expected="an install root with a bundle",
            remedy="jetson-runtime install BUNDLE --root DIR --trust FILE",
        )
    return root.slot(chosen.name)


def confirm(path: Path) -> State:
    """End a trial well: the bundle on trial serves from now on.

    Raises:
        InputError: nothing is on trial. StorageError: the root is locked or can't be written.
    """
    with _on_trial(path) as (root, state):
        return root.change(State(serving=state.trial), "confirmed")


def rollback(path: Path) -> State:
    """End a trial badly: what served before goes on serving.

    Raises:
        InputError: nothing is on trial. StorageError: the root is locked or can't be written.
    """
    with _on_trial(path) as (root, state):
        return root.change(State(serving=state.serving), "rolled back", reason="by command")


@contextmanager
def _on_trial(path: Path) -> Iterator[tuple[Root, State]]:
    root = Root(path)
    current(path)
    with root.locked() as state:
        if state.trial is None:
            raise InputError(
                f"nothing is on trial in {path}",
                found=f"release {state.serving.release if state.serving else 'none'} serves, confirmed",
                expected="a bundle that was installed with --trial",
                remedy="a confirmed release is never followed by a lower one: sign the older bundle as a new release",
            )
        yield root, state
