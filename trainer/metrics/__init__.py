"""Metrics: `evaluate` modules that work offline, metrics from the hub, and the report by class."""
