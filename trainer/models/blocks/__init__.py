"""Blocks: layers that several families share."""
