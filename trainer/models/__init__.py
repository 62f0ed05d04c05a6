"""Models in the hub's format: one small file per family over shared blocks."""
