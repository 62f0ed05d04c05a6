"""Families: one file for each model type, named after it."""
