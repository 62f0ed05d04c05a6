"""Tasks: the interface of recipes, losses as sums and counts, and checks before a run."""
