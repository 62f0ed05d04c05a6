"""Checkpoints: how they are written, published, verified, retained and restored."""
