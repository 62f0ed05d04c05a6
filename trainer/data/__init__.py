"""Data: rows are read, tokenized, planned into global batches and collated into flat batches."""
