"""Tests whether a model refuses what it should: prompt sets, a judge, a run over every depth, a report."""
