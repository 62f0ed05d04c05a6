"""The progress of a checkpoint in tests that need no training."""

from typing import Any

from trainer.checkpoint.state import Progress


def progress(step: int, **other: Any) -> Progress:
    """The progress of a run after a step, with `other` values for some of its fields."""
    values: dict[str, Any] = {
        "step": step,
        "samples_consumed": 8 * step,
        "epoch": step / 10,
        "seed": 0,
        "global_batch_size": 8,
        "micro_batch_size": None,
        "max_tokens": 4096,
        "world_size": 1,
        "precision": "fp32",
        "data_fingerprint": "d",
        "config_fingerprint": {"model": "m", "optimizer": "o"},
        "best_metric": 0.5,
        "best_step": step,
        "evaluations_without_improvement": 0,
        "total_steps": 10**9,
        "finished": False,
    }
    return Progress(**(values | other))
