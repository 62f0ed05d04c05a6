"""Sweeps: run many jobs with one command, by means of Hydra's sweepers and launchers."""
