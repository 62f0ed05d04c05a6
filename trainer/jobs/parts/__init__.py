"""Parts of a run that several jobs use, such as its data, its model and its processor."""
