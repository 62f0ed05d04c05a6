"""Retention follows its rule over random histories of saves, failures, damage and restarts."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.checkpoint import files
from trainer.checkpoint.publish import published
from trainer.checkpoint.resume import choose
from trainer.checkpoint.retain import retain
from trainer.checkpoint.verify import CorruptCheckpoint, verify
from trainer.errors import EnvironmentFault


def verified(run: Path) -> list[int]:
    found = []
    for step, path in published(run).items():
        try:
            verify(path)
            found.append(step)
        except CorruptCheckpoint:
            continue
    return found


class History:
    """A random history of a run; `play` performs the next event and checks the invariants."""

    def __init__(self, run: Path, save: Callable[[Path, int], Path], seed: int) -> None:
        self.run, self.save, self.dice = run, save, random.Random(seed)
        self.limit = self.dice.choice([2, 2, 3, 4])
        self.step = 0
        self.best: int | None = None

    def play(self) -> None:
        actions = [self.save_and_retain] * 5 + [self.fail_to_save, self.damage, self.restart]
        self.dice.choice(actions)()

    def save_and_retain(self) -> None:
        self.step += 1
        self.save(self.run, self.step)
        if self.best is None or self.dice.random() < 0.4:
            self.best = self.step
        before = verified(self.run)
        retain(self.run, self.limit, self.best)
        after = verified(self.run)
        assert after[-1] == self.step
        assert (self.best in after) == (self.best in before)
        assert len(after) == min(self.limit, len(before))
        newest = [step for step in before if step != self.best]
        room = self.limit - (self.best in before)
        assert set(after) - {self.best} == set(newest[-room:])

    def fail_to_save(self) -> None:
        left = self.dice.randrange(1, 40)

        def hook(moment: str, *_: object) -> None:
            nonlocal left
            left -= moment == "before"
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        before = verified(self.run)
        files.hook = hook
        try:
            self.save(self.run, self.step + 1)
        except EnvironmentFault:
            pass
        finally:
            files.hook = None
        assert set(before) <= set(verified(self.run)) <= {*before, self.step + 1}
        self.step = max([self.step, *published(self.run)])

    def damage(self) -> None:
        """Damage one of several checkpoints; the one before it stays."""
        if len(verified(self.run)) > 1:
            checkpoint = published(self.run)[self.dice.choice(verified(self.run))]
            target = self.dice.choice([p for p in checkpoint.rglob("*") if p.is_file()])
            target.write_bytes(target.read_bytes()[:-1])

    def restart(self) -> None:
        before = verified(self.run)
        newest = choose(self.run)
        assert newest == (published(self.run)[before[-1]] if before else None)
        assert verified(self.run) == before
        self.step = before[-1] if before else 0


@pytest.mark.parametrize("seed", range(60))
def test_random_histories(folder, save_light, seed):
    history = History(folder / "run", save_light, seed)
    history.save_and_retain()
    for _ in range(20):
        history.play()
