"""Recipes: each file defines a class with the name of the file."""
