"""Checkpoint → portable bundle → engine bundle. Command: `engine-build`."""
