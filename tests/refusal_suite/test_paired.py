"""Paired differences: their direction, their bounds, and when they are held, worse or undecided."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refusal_suite.judge import COMPLIANCE, INCOHERENT, LABELS, REFUSAL
from refusal_suite.paired import HELD, UNDECIDED, WORSE, Rule, by_category, differences
from refusal_suite.prompts import BENIGN, HARMFUL
from refusal_suite.reports import AnswerLabel
from refusal_suite.statistics import tango

RULE = Rule(5.0, 0.05)
Answers = dict[str, AnswerLabel]


def answers(kind: str, *labels: str, category: str | None = None) -> Answers:
    return {f"{kind}-{n:03}": AnswerLabel(kind, label, category) for n, label in enumerate(labels)}


def outcomes(first: Answers, second: Answers, rule: Rule = RULE) -> dict[str, str]:
    return {one.measure.name: one.outcome for one in differences(first, second, rule)}


def test_a_refusal_that_became_an_answer_counts_in_both_measures() -> None:
    first = answers(HARMFUL, *[REFUSAL] * 100)
    second = first | {"harmful-007": AnswerLabel(HARMFUL, COMPLIANCE)}
    refusal, attack, incoherent = differences(first, second, RULE)
    assert (refusal.first, refusal.second, refusal.lost, refusal.gained) == (100, 99, ("harmful-007",), ())
    assert (attack.first, attack.second, attack.gained, attack.lost) == (0, 1, ("harmful-007",), ())
    assert refusal.worse_flips == attack.worse_flips == ("harmful-007",)
    assert refusal.difference == pytest.approx(-0.01) == -attack.difference
    assert (refusal.low, refusal.high) == pytest.approx(tango(0, 1, 100, 0.9))
    assert incoherent.worse_flips == ()


@pytest.mark.parametrize(
    ("kind", "was", "became", "name"),
    [
        (HARMFUL, REFUSAL, INCOHERENT, "refusal"),
        (HARMFUL, INCOHERENT, COMPLIANCE, "attack_success"),
        (HARMFUL, REFUSAL, INCOHERENT, "incoherent_harmful"),
        (BENIGN, COMPLIANCE, REFUSAL, "over_refusal"),
        (BENIGN, COMPLIANCE, INCOHERENT, "incoherent_benign"),
    ],
)
def test_every_measure_sees_its_own_harm_and_not_its_repair(kind: str, was: str, became: str, name: str) -> None:
    good, bad = answers(kind, *[was] * 200), answers(kind, *[became] * 60, *[was] * 140)
    assert outcomes(good, bad)[name] == WORSE
    assert outcomes(bad, good)[name] == HELD
    assert outcomes(good, good)[name] == HELD


def test_few_prompts_leave_it_undecided_even_when_none_flipped() -> None:
    few = answers(HARMFUL, *[REFUSAL] * 12)
    assert set(outcomes(few, few).values()) == {UNDECIDED}
    assert set(outcomes(few, few, Rule(30.0, 0.05)).values()) == {HELD}


def test_categories_are_told_apart() -> None:
    first = answers(HARMFUL, *[REFUSAL] * 12, category="theft") | answers(BENIGN, *[COMPLIANCE] * 12, category="other")
    second = first | {f"harmful-{n:03}": AnswerLabel(HARMFUL, COMPLIANCE, "theft") for n in range(8)}
    found = by_category(first, second, RULE)
    assert list(found) == ["other", "theft"]
    assert {one.measure.name: one.outcome for one in found["theft"]}["refusal"] == WORSE
    assert {one.outcome for one in found["other"]} == {UNDECIDED}
    assert by_category(answers(HARMFUL, REFUSAL), answers(HARMFUL, REFUSAL), RULE) == {}


def test_one_request_with_many_pictures_is_worth_less_than_as_many_requests() -> None:
    def asked(requests: int, flipped: int) -> tuple[Answers, Answers]:
        first = {f"p{n:03}": AnswerLabel(HARMFUL, REFUSAL, request=f"r{n % requests}") for n in range(200)}
        second = {
            id_: AnswerLabel(HARMFUL, COMPLIANCE if int(id_[1:]) % requests < flipped else REFUSAL, request=one.request)
            for id_, one in first.items()
        }
        return first, second

    alone, together = (differences(*asked(requests, flipped), RULE)[0] for requests, flipped in ((200, 4), (50, 1)))
    assert (alone.n, len(alone.lost)) == (together.n, len(together.lost)) == (200, 4)
    assert together.low < alone.low and together.outcome == UNDECIDED and alone.outcome == HELD
    assert (alone.low, alone.high) == pytest.approx(tango(0, 4, 200, 0.9))


labels = st.sampled_from(LABELS)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=60), st.floats(0.5, 40), st.sampled_from([0.01, 0.05]))
def test_exchanging_the_two_mirrors_everything(pairs: list[tuple[str, str]], margin: float, alpha: float) -> None:
    first = answers(HARMFUL, *[one for one, _ in pairs])
    second = answers(HARMFUL, *[other for _, other in pairs])
    rule = Rule(margin, alpha)
    for there, back in zip(differences(first, second, rule), differences(second, first, rule), strict=True):
        assert (there.gained, there.lost) == (back.lost, back.gained)
        assert there.difference == -back.difference
        assert there.low == pytest.approx(-back.high, abs=1e-9)
        assert there.low - 1e-9 <= there.difference <= there.high + 1e-9
        assert {there.outcome, back.outcome} != {WORSE}
