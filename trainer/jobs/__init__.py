"""Jobs: what a command does with a checked run, one file each."""
