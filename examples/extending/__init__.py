"""A package outside tempering that adds one part of every kind; copy it to start your own.

A part is one file in the folder of its kind, and the file's name is the part's name.
"""
