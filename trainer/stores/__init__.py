"""Stores: remote storage, with fsspec URLs such as s3://bucket/a, for runs, data and models."""
