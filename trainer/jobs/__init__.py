"""Jobs: the actions that a command can perform, such as train or predict; one file for each."""
