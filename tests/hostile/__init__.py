"""Files from strangers: mutations of real files, read by every reader of the launcher."""
