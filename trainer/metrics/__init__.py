"""Metrics: modules of `evaluate` that work offline, metrics from the hub, and reports by class."""
