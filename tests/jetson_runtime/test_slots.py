"""The state machine of an install root, without bundles: only names, releases and digests matter to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from jetson_runtime.errors import BundleError, InputError, StorageError
from jetson_runtime.install_log import read_log
from jetson_runtime.slots import LOCK, LOG, STATE, Root, Slot, State, confirm, current, resolve, rollback

OLD, NEW = Slot("a", 4, "4" * 64), Slot("b", 5, "5" * 64)


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Release 4 serves; release 5 is on trial with two starts."""
    root = Root(tmp_path / "root")
    with root.locked():
        root.change(State(OLD), "confirmed")
        root.change(State(OLD, NEW, 2), "on trial")
    return root


def events(root: Root) -> list[str]:
    return [event["event"] for event in read_log(root.path / LOG).events]


def test_a_trial_has_its_starts_and_then_the_old_one_serves_again(root: Root) -> None:
    assert current(root.path) == root.slot("b")
    assert [resolve(root.path).name for _ in range(4)] == ["b", "b", "a", "a"]
    assert root.state() == State(OLD)
    assert events(root) == ["confirmed", "on trial", "start", "start", "rolled back"]


def test_a_confirmed_trial_serves_at_every_start(root: Root) -> None:
    resolve(root.path)
    resolve(root.path)
    assert current(root.path) == root.slot("a"), "what the next start would get"
    assert confirm(root.path) == State(NEW)
    before = events(root)
    assert {resolve(root.path).name for _ in range(5)} == {"b"}
    assert events(root) == before, "a start of what serves writes nothing"


def test_a_trial_can_be_ended_by_command(root: Root) -> None:
    assert rollback(root.path) == State(OLD)
    assert resolve(root.path) == root.slot("a")


@pytest.mark.parametrize("end", [confirm, rollback])
def test_without_a_trial_there_is_nothing_to_end(root: Root, end: Callable[[Path], State]) -> None:
    confirm(root.path)
    with pytest.raises(InputError, match="nothing is on trial") as raised:
        end(root.path)
    assert "release 5 serves" in str(raised.value) and "as a new release" in str(raised.value)
    assert root.state() == State(NEW)


def test_where_nothing_is_installed_nothing_is_made(tmp_path: Path) -> None:
    for call in (resolve, current, confirm, rollback):
        with pytest.raises(InputError, match="nothing is installed"):
            call(tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_start_that_can_not_be_counted_is_a_start_of_the_old_one(root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr("jetson_runtime.slots.write_json", full)
    assert resolve(root.path) == root.slot("a")
    assert root.state() == State(OLD, NEW, 2)


def test_two_commands_can_not_change_a_root_at_once_and_a_killed_one_frees_it(root: Root) -> None:
    code = (
        "import sys; from pathlib import Path; from jetson_runtime.slots import Root\n"
        "with Root(Path(sys.argv[1])).locked():\n    print(flush=True)\n    sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(root.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdout.readline()
    with pytest.raises(StorageError, match="being changed by another command"):
        confirm(root.path)
    holder.kill()
    holder.communicate()
    assert confirm(root.path) == State(NEW)
    assert (root.path / LOCK).exists()


def test_a_change_that_was_not_logged_is_logged_by_the_next_command(root: Root) -> None:
    (root.path / STATE).write_text(json.dumps(State(OLD, NEW, 1).to_dict()))
    confirm(root.path)
    log = read_log(root.path / LOG)
    assert [event["event"] for event in log.events][-2:] == ["recovered", "confirmed"]
    assert log.events[-2]["state"]["starts_left"] == 1


def test_the_counter_outlives_state_json(root: Root) -> None:
    confirm(root.path)
    (root.path / STATE).unlink()
    assert root.confirmed() == NEW


WRONG = {
    "no JSON": "{",
    "a list": "[]",
    "another schema": json.dumps({**State(OLD).to_dict(), "schema": "holdfast/install/2"}),
    "an unknown field": json.dumps({**State(OLD).to_dict(), "more": 1}),
    "a slot outside": json.dumps(State(Slot("../x", 1, "0")).to_dict()),
    "one slot twice": json.dumps(State(OLD, Slot("a", 5, "5"), 1).to_dict()),
    "a trial alone": json.dumps(State(None, NEW, 1).to_dict()),
    "starts below zero": json.dumps(State(OLD, NEW, -1).to_dict()),
    "a release that is no number": json.dumps(State(Slot("a", "4", "4")).to_dict()),  # type: ignore[arg-type]
    "a release that is a truth": json.dumps(State(Slot("a", True, "4")).to_dict()),
}


@pytest.mark.parametrize("text", WRONG.values(), ids=WRONG.keys())
def test_a_state_that_is_none_is_refused(root: Root, text: str) -> None:
    (root.path / STATE).write_text(text)
    for call in (resolve, current, confirm, rollback):
        with pytest.raises((BundleError, InputError), match=STATE):
            call(root.path)


class Machine(RuleBasedStateMachine):
    """Any order of commands, some killed between the state and the log: the counter never falls, something serves."""

    @initialize(folder=st.just(None))
    def begin(self, folder: None) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.root = Root(Path(self.folder.name) / "root")
        self.highest = 0

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(step=st.integers(0, 3), starts=st.integers(0, 3))
    def install(self, step: int, starts: int) -> None:
        with self.root.locked() as state:
            if state.trial is None:
                slot = Slot(state.idle(), self.highest + step, "0")
                assert state.serving is None or slot.name != state.serving.name, "what serves is never written to"
                if starts and state.serving:
                    self.root.change(State(state.serving, slot, starts), "on trial")
                else:
                    self.root.change(State(slot), "confirmed")

    @precondition(lambda self: self.root.state().serving is not None)
    @rule()
    def start(self) -> None:
        before = self.root.state()
        chosen = resolve(self.root.path)
        assert before.serving is not None
        expected = before.trial if before.trial is not None and before.starts_left else before.serving
        assert chosen.name == expected.name

    @precondition(lambda self: self.root.state().trial is not None)
    @rule(end=st.sampled_from([confirm, rollback]))
    def end_trial(self, end: Callable[[Path], State]) -> None:
        end(self.root.path)

    @precondition(lambda self: self.root.state().serving is not None)
    @rule(cut=st.integers(1, 400))
    def lose_the_end_of_the_log(self, cut: int) -> None:
        log = self.root.path / LOG
        last = log.read_bytes().rstrip(b"\n").rfind(b"\n") + 1
        os.truncate(log, max(last, log.stat().st_size - cut))  # at most its last line: every line is flushed

    @invariant()
    def the_counter_never_falls(self) -> None:
        serving = self.root.state().serving
        assert (serving.release if serving else 0) >= self.highest
        self.highest = serving.release if serving else 0

    @invariant()
    def the_log_holds_together(self) -> None:
        assert read_log(self.root.path / LOG).broken_line is None


Machine.TestCase.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
test_any_order_of_commands = Machine.TestCase
