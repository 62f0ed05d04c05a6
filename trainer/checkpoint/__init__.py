"""Checkpoints that cannot be lost: written, published, verified, kept and resumed from."""
