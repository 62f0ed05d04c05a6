"""Heads: the task-specific layers on a body, with their outputs and losses."""
