"""Assembles the reference checkpoint, trains its projector, and realigns a checkpoint at every exit."""
