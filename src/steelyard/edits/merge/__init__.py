"""Merging: what several checkpoints of one shape become. Methods are in `methods/`, one file each."""
