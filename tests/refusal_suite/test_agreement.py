"""Cohen's kappa against published values, and what a report of agreement counts."""

from __future__ import annotations

import random

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from refusal_suite.agreement import agreement, cohens_kappa
from refusal_suite.judge import LABELS, Verdict
from refusal_suite.labelled import Labelled, LabelledSet
from refusal_suite.prompts import Prompt

TABLES = st.lists(st.lists(st.integers(0, 300), min_size=3, max_size=3), min_size=3, max_size=3)


@pytest.mark.parametrize(
    ("table", "value", "interval"),
    [
        # Cohen (1960), two clinicians and 200 patients; the interval is statsmodels 0.15.0's.
        ([[88, 14, 18], [10, 40, 10], [2, 6, 12]], 0.4915254, (0.3915637, 0.5914871)),
        # Fleiss, Levin and Paik (2003), table 18.1: kappa 0.68, standard error 0.087.
        ([[75, 1, 4], [5, 4, 1], [0, 0, 10]], 0.6764706, (0.5045760, 0.8483652)),
        # SAS, PROC FREQ, the example with dermatologists: 0.4842, 0.2137 to 0.7547.
        ([[0, 4, 1], [0, 8, 0], [0, 1, 5]], 0.4841629, (0.2136613, 0.7546645)),
    ],
)
def test_kappa_matches_published_values(table: list[list[int]], value: float, interval: tuple[float, float]) -> None:
    kappa = cohens_kappa(table)
    assert kappa.value == pytest.approx(value, abs=1e-7)
    assert (kappa.low, kappa.high) == pytest.approx(interval, abs=1e-6)


@given(TABLES)
def test_kappa_lies_in_its_interval_whichever_rater_comes_first(table: list[list[int]]) -> None:
    rows, columns = [sum(row) for row in table], [sum(column) for column in zip(*table, strict=True)]
    assume(sum(one > 0 or other > 0 for one, other in zip(rows, columns, strict=True)) > 1)
    kappa = cohens_kappa(table)
    assert -1 <= kappa.low <= kappa.value + 1e-12 and kappa.value <= kappa.high + 1e-12 <= 1 + 1e-9
    turned = cohens_kappa([list(column) for column in zip(*table, strict=True)])
    assert (turned.value, turned.low, turned.high) == pytest.approx((kappa.value, kappa.low, kappa.high), abs=1e-9)
    order = [2, 0, 1]
    moved = cohens_kappa([[table[i][j] for j in order] for i in order])
    assert moved.value == pytest.approx(kappa.value, abs=1e-9)


@given(st.lists(st.integers(0, 500), min_size=3, max_size=3), st.integers(0, 2))
def test_a_rater_that_always_says_the_same_agrees_by_chance_only(counts: list[int], always: int) -> None:
    assume(sum(map(bool, counts)) > 1)
    kappa = cohens_kappa([[count if column == always else 0 for column in range(3)] for count in counts])
    assert (kappa.value, kappa.low, kappa.high) == (0, 0, 0)


def test_perfect_agreement_on_few_answers_proves_little() -> None:
    few, many = cohens_kappa([[3, 0], [0, 3]]), cohens_kappa([[150, 0], [0, 150]])
    assert few.value == many.value == few.high == 1
    assert few.low < 0.3 < 0.95 < many.low


def test_kappas_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    chance, true = random.Random(5), [[0.30, 0.05, 0.02], [0.04, 0.35, 0.04], [0.01, 0.04, 0.15]]
    truth = cohens_kappa([[round(100 * share) for share in row] for row in true]).value
    cells = [(i, j) for i in range(3) for j in range(3)]
    covered, draws = 0, 1500
    for _ in range(draws):
        drawn = chance.choices(cells, [true[i][j] for i, j in cells], k=300)
        kappa = cohens_kappa([[drawn.count((i, j)) for j in range(3)] for i in range(3)])
        covered += kappa.low <= truth <= kappa.high
    assert 0.93 < covered / draws < 0.97


def rows(labels: str, unsure: str = "") -> LabelledSet:
    names = {label[0]: label for label in LABELS}
    found = tuple(
        Labelled(Prompt(f"p{number}", "a secret", "harmful", "none"), f"said {number}", names[each], number in at)
        for at in [[int(digit) for digit in unsure]]
        for number, each in enumerate(labels)
    )
    return LabelledSet("mine", "ab" * 32, found)


def verdicts(labels: str) -> list[Verdict]:
    names = {label[0]: label for label in LABELS}
    return [Verdict(names[each], "rule", "j-1") for each in labels]


def test_a_report_counts_by_label_and_names_the_differences() -> None:
    labelled = rows("rrrrccci", unsure="37")
    report = agreement(labelled, "j-1", verdicts("rrrccccc"), 0.6)

    assert report["confusion"] == {
        "refusal": {"refusal": 3, "compliance": 1, "incoherent": 0},
        "compliance": {"refusal": 0, "compliance": 3, "incoherent": 0},
        "incoherent": {"refusal": 0, "compliance": 1, "incoherent": 0},
    }
    assert (report["accuracy"]["hits"], report["accuracy"]["n"]) == (6, 8)
    assert report["by_label"]["refusal"]["recall"]["rate"] == 0.75
    assert report["by_label"]["refusal"]["precision"]["rate"] == 1
    assert report["by_label"]["compliance"]["precision"]["rate"] == 0.6
    assert report["by_label"]["incoherent"]["precision"] == {"hits": 0, "n": 0, "rate": None, "low": None, "high": None}
    assert report["by_label"]["incoherent"]["recall"]["rate"] == 0
    # Refusal or not: 7 of 8 agree, by chance (4 x 3 + 4 x 5) / 64 would.
    assert report["by_label"]["refusal"]["kappa"]["value"] == pytest.approx((7 / 8 - 1 / 2) / (1 - 1 / 2))
    assert report["by_label"]["incoherent"]["kappa"]["value"] == pytest.approx(0)
    # 6 of 8 agree; by chance 4/8 x 3/8 + 3/8 x 5/8 would.
    assert report["kappa"]["value"] == pytest.approx((0.75 - 27 / 64) / (1 - 27 / 64))
    assert report["kappa_without_unsure"]["value"] == 1
    assert report["labelled"]["unsure"] == 2
    assert [(each["prompt"], each["label"], each["judged"], each["unsure"]) for each in report["differences"]] == [
        ("p3", "refusal", "compliance", True),
        ("p7", "incoherent", "compliance", True),
    ]
    assert "said" not in str(report) and "secret" not in str(report)


@pytest.mark.parametrize(("least", "passed"), [(0.5, True), (0.6, False), (1.0, False)])
def test_below_the_least_kappa_a_judge_does_not_pass(least: float, passed: bool) -> None:
    assert agreement(rows("rrrrccci"), "j-1", verdicts("rrrccccc"), least)["passed"] is passed


@pytest.mark.parametrize("labels", ["rrrcci", "r" * 300 + "c", "r" * 2 + "c" * 300 + "i" * 3])
@pytest.mark.parametrize("always", ["r", "c", "i"])
def test_a_judge_that_always_says_the_same_does_not_pass(labels: str, always: str) -> None:
    report = agreement(rows(labels), "j-1", verdicts(always * len(labels)), 0.01)
    assert report["kappa"]["value"] == pytest.approx(0, abs=1e-9)
    assert report["passed"] is False


def test_without_the_unsure_answers_there_may_be_nothing_to_say() -> None:
    report = agreement(rows("rrc", unsure="2"), "j-1", verdicts("rrr"), 0.6)
    assert report["kappa_without_unsure"] is None
    assert report["by_label"]["incoherent"]["kappa"] is None
