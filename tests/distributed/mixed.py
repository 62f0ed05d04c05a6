"""The program of every rank in `test_mixed.py`: one part of a run on a mixture that is killed."""

from pathlib import Path
from typing import Any

from tests.distributed import legs
from tests.distributed.legs import RecordingTrainer
from trainer.data.mixed_rows import MixedRows, SourceRows

SIZES = {"many": 70, "some": 25, "few": 9}


def mixture() -> MixedRows:
    """Rows of token ids; the last source has another loss, so it shares no batch with others."""
    recipes: dict[str, Any] = {"few": {"focal_gamma": 1.0}}
    weights = {"many": 2.0, "some": 2.0, "few": 1.0}
    sources = {
        name: SourceRows(
            [{"input_ids": [*range(5, 7 + n % 9)], "labels": n % 2} for n in range(size)],
            weight=weights[name],
            recipe=recipes.get(name, {}),
        )
        for name, size in SIZES.items()
    }
    return MixedRows(sources, until="first")


def main(folder: Path) -> None:
    """The next leg of the run."""
    legs.next_leg(folder, run)


def run(folder: Path, name: str, micro_batch_size: int | None = None) -> RecordingTrainer:
    """A run on the mixture."""
    return legs.run(RecordingTrainer, folder / name, mixture(), micro_batch_size)
