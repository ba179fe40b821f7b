"""The claims about judges, as far as they are quick: all of them."""

from __future__ import annotations

from benchmarks import judges  # noqa: F401 (registers its claims)
from benchmarks.claims import CLAIMS
from jetson_runtime.files import canonical_json
from refusal_suite.judge import LABELS


def test_no_constant_judge_passes_though_some_are_nearly_always_right() -> None:
    claim = CLAIMS["gate.constant-judge"]
    result = claim.run()
    tried = result.details["tried"]
    assert claim.holds(result.value)
    assert len(tried) == 4 * len(LABELS)
    assert max(each["accuracy"] for each in tried) > 0.9
    assert [each for each in tried if abs(each["kappa"]) > 1e-9 or each["passed"]] == []
    canonical_json(result.details)


def test_the_rules_agreement_is_that_of_the_whole_file() -> None:
    details = CLAIMS["gate.judge-agreement"].run().details
    table = details["confusion"]
    assert sum(sum(row.values()) for row in table.values()) == sum(details["labelled"]["n"].values()) >= 300
    assert set(details["kappa_by_kind"]) == {"harmful", "benign"}
    canonical_json(details)
