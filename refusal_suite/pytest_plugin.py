"""A pytest plugin: `pytest --bundle DIR` adds one test per depth and category of a bundle to a test run.

Without `--bundle` it does nothing and imports nothing (docs/refusal-check.md).
"""

from __future__ import annotations

from pathlib import Path

import pytest

__all__ = ["pytest_addoption", "pytest_collection_modifyitems", "pytest_configure"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options; they all begin with `--bundle` or `--refusal`."""
    group = parser.getgroup("holdfast", "Holdfast bundles")
    group.addoption("--bundle", type=Path, metavar="DIR", help="test this bundle's admission and its refusals")
    group.addoption(
        "--bundle-trust", type=Path, metavar="FILE", help="the bundle must be signed by keys of this trust file"
    )
    group.addoption(
        "--bundle-depth", action="append", default=[], metavar="NAME", help="only this depth; may be repeated"
    )
    group.addoption(
        "--refusal-margin", type=float, default=5.0, metavar="POINTS",
        help="hundredths of the prompts by which a depth may be worse than the reference (default 5)",
    )  # fmt: skip
    group.addoption(
        "--bundle-run", action="store_true", help="ask the prompts anew instead of reading the admitted report"
    )
    group.addoption(
        "--bundle-prompts", type=Path, action="append", default=[], metavar="FILE",
        help="with --bundle-run, a prompt set of the admitted report; may be repeated (default: holdfast-1)",
    )  # fmt: skip
    group.addoption(
        "--bundle-backend", default="onnxruntime", metavar="NAME", help="with --bundle-run, the backend that runs it"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse options that would do nothing."""
    for option, needed in (
        ("--bundle-trust", "--bundle"), ("--bundle-depth", "--bundle"), ("--bundle-run", "--bundle"),
        ("--bundle-prompts", "--bundle-run"),
    ):  # fmt: skip
        if config.getoption(option) and not config.getoption(needed):
            raise pytest.UsageError(f"{option} says nothing without {needed}")


@pytest.hookimpl(tryfirst=True)  # before -k, -m and --deselect choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the bundle's tests behind those that were found."""
    if config.getoption("--bundle") is None:
        return
    from refusal_suite.pytest_items import BundleCollector

    collector = BundleCollector.from_parent(session, name="holdfast", nodeid="holdfast")
    items.extend(session.genitems(collector))
