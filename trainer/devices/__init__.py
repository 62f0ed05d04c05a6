"""Devices: where a model runs, on how many ranks, in which precision, and how it is sharded."""
