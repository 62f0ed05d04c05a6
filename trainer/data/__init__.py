"""Data on its one way: rows, then tokens, then the plan of global batches, then flat batches."""
