"""Judges: who decides whether an answer refuses, complies, or says nothing. The rules, a local model, an endpoint."""

from refusal_suite.judges.protocol import Judge, RulesJudge, coherent_first

__all__ = ["Judge", "RulesJudge", "coherent_first"]
