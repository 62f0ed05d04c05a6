"""Optimizers: each file has the name of one and defines `build(named_parameters, settings)`."""
