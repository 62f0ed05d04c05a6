"""Callbacks: dataclasses that watch a run and ask it to stop, save or evaluate."""
