"""The program of every rank in `test_elastic.py`: one part of a run that changes its ranks."""

import json
import sys
from pathlib import Path

from tests.distributed.legs import RecordingTrainer
from tests.distributed.stopping import (
    build,
    leave,
    terminate_this_rank,
    weights,
)
from trainer.errors import Interrupted


def leg(folder: Path, name: str, micro_batch_size: int | None, stop_at: int) -> RecordingTrainer:
    """Continue until only the last rank is asked to leave, after step `stop_at`; 0: to the end."""
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "ema_decay": 0.9, "num_epochs": 1}
    trainer = build(
        folder / "run", samples=131, save_steps=0, micro_batch_size=micro_batch_size, **settings
    )
    trainer.__class__ = RecordingTrainer
    assert isinstance(trainer, RecordingTrainer)
    trainer.record = folder / f"{name}-rank{trainer.ranks.rank}.jsonl"
    if trainer.ranks.rank == trainer.ranks.world_size - 1:
        trainer.stop("backward", stop_at, terminate_this_rank)
    try:
        trainer.fit()
    except Interrupted as left:
        assert stop_at and left.exit_code == 143, left
        assert trainer.state.step == stop_at
    else:
        assert stop_at == 0
    return trainer


if __name__ == "__main__":
    folder, name, micro_batch_size, stop_at = sys.argv[1:]
    size = int(micro_batch_size)
    done = leg(Path(folder), name, size or None, int(stop_at))
    if done.ranks.is_main:
        Path(folder, "weights.json").write_text(json.dumps(weights(done).tolist()))
    leave()
