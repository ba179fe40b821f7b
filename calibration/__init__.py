"""Latency profiles, measured on the machine that will serve. Command: `engine-calibrate`."""
