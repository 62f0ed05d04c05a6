"""Formats: the hub's files, their config entries and their tensor names."""
