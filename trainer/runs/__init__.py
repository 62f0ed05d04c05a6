"""Runs: the run folder, the state needed to resume, and the results of a run."""
