"""Untrusted input: checks files, JSON and numbers from other programs before they are used."""
