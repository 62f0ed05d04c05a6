"""Heads: each file is named after its task and defines HEAD."""
