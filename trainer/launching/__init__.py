"""From what the user typed to a checked Run: everything about it that needs no Hydra."""
