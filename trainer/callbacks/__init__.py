"""Callbacks: dataclasses that observe a run and may ask it to stop, save or evaluate."""
