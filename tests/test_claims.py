"""What a claim's record says about the tree that was measured."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import claims
from benchmarks.claims import Claim, Measured

NAME = "end-to-end.sample"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one source file and one recorded result, both committed."""
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    (tmp_path / "source.py").write_text("before")
    (results / "other.json").write_text("{}")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "--quiet", "--message=a")
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    monkeypatch.setattr(claims, "RESULTS", results)
    return tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True).stdout.strip()


def recorded(tree: Path) -> str:
    claims.measure(Claim(NAME, "a sample", "points", "<=", 1, lambda: Measured(0.5)))
    commit: str = json.loads((tree / "benchmarks" / "results" / f"{NAME}.json").read_text())["commit"]
    return commit


def test_a_record_names_the_commit_that_was_measured(tree: Path) -> None:
    assert recorded(tree) == git(tree, "rev-parse", "--short=12", "HEAD")


def test_other_results_do_not_make_the_tree_dirty(tree: Path) -> None:
    (tree / "benchmarks" / "results" / "other.json").write_text('{"value": 1}')
    assert recorded(tree) == git(tree, "rev-parse", "--short=12", "HEAD")


def test_a_changed_source_makes_the_tree_dirty(tree: Path) -> None:
    (tree / "source.py").write_text("after")
    assert recorded(tree) == git(tree, "rev-parse", "--short=12", "HEAD") + "-dirty"
