"""Training: the optimizer step, and the memory, schedules and evaluation around it."""
