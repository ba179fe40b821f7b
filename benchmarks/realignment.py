"""Claims about the reference checkpoint: its projector is trained, not random."""

from __future__ import annotations

from benchmarks.claims import Measured, claim
from benchmarks.workspace import checkpoint

QUESTIONS, SEED = 300, 0


@claim(
    "realignment.projector-sees",
    "easy-VQA test accuracy at exit 12 above the best answers without a picture",
    "points",
    ">=",
    10,
)
def projector_sees() -> Measured:
    """Blind: for each kind of question, the answer that is right most often; it can't be beaten without looking."""
    from realignment.easy_vqa import KINDS
    from realignment.packages import EASY_VQA, default_cache, fetch
    from realignment.projector import load_checkpoint
    from realignment.visual_questions import accuracy_by_exit, drawn_questions

    model, processor = load_checkpoint(checkpoint())
    data = fetch(EASY_VQA, default_cache())
    seen = accuracy_by_exit(model, processor, data, questions=QUESTIONS, seed=SEED, exits=[12])
    asked = drawn_questions(data, QUESTIONS, SEED).all
    blind = 0
    for kind in KINDS:
        answers = [question.answer for question in asked if question.kind == kind]
        blind += max(map(answers.count, set(answers)), default=0)
    right = sum(seen["exits"]["12"]["right"].values())
    details = {"asked": seen["asked"], "right": seen["exits"]["12"]["right"], "right_without_looking": blind}
    return Measured(100 * (right - blind) / len(asked), details)
