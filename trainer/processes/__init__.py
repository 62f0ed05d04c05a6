"""Processes: one command becomes any number of ranks, on one machine or several."""
