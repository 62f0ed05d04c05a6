"""Files from strangers: real ones, mutated, through every reader of the launcher."""
