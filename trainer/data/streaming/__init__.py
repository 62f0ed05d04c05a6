"""Streaming: reads training rows from shards that fit neither in memory nor on the disk."""
