"""RunFolder: what lies in output_dir, and who may write there when."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.checkpoint.background import BackgroundSave
from trainer.checkpoint.lock import LOCK, RunLock
from trainer.checkpoint.publish import (
    Alone,
    begin,
    check_seen,
    checkpoint_path,
    complete,
    deferred,
    publish,
    published,
    together,
)
from trainer.checkpoint.publish import Ranks as Publishers
from trainer.checkpoint.record import StepLog
from trainer.checkpoint.resume import choose, origin_of
from trainer.checkpoint.retain import retain
from trainer.checkpoint.verify import MANIFEST, verify
from trainer.data.reading import BadRow
from trainer.errors import EnvironmentFault, InputError
from trainer.ranks import Ranks
from trainer.settings import TrainSettings

logger = logging.getLogger("trainer")


RESUME_WORDS = ("auto", "never", "must")
"""Values of trainer.resume that are no checkpoint's path."""


class RunFolder:
    """The folder of a run: config.yaml, metrics.jsonl, checkpoints, model/, results.json."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()  # the process may change its working folder
        self.name = path
        """The folder as it was given, for what people read."""
        self.metrics = StepLog(self.path / "metrics.jsonl")
        self.origin: str | None = None
        """The checkpoint of another folder that the run began from."""

    @property
    def model(self) -> Path:
        """The folder of the model to use."""
        return self.path / "model"

    @property
    def trackers(self) -> Path:
        """The folder of experiment trackers that write to a disk."""
        return self.path / "trackers"

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that was published."""
        found = published(self.path)
        return found[max(found)] if found else None

    def newest_until(self, step: int) -> Path | None:
        """The newest published checkpoint of this step or an earlier one."""
        found = {number: path for number, path in published(self.path).items() if number <= step}
        return found[max(found)] if found else None

    def checkpoint(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return checkpoint_path(self.path, step)

    def verified_checkpoint(self, step: int, ranks: Ranks) -> Path:
        """The checkpoint of a step. Raises CorruptCheckpoint, on every rank, if it is damaged."""
        checkpoint = self.checkpoint(step)
        together(ranks, lambda: str(verify(checkpoint)) if ranks.is_main else None)
        return checkpoint

    def completed(self, settings: TrainSettings, config_digest: str) -> dict[str, Any] | None:
        """The results of this very run, if it has nothing left to do here, or None."""
        if settings.resume not in ("auto", "must"):
            return None
        try:
            results = json.loads(files.read_bytes(self.path / "results.json"))
            over = results["steps"] >= settings.total_steps(results["train_samples"])
            over = over or bool(results["stopped"] and results["asked"] == asked_of(settings))
            over = over and self.model.is_dir()
            return results if over and results["config"] == config_digest else None
        except FileNotFoundError:
            return None
        except (EnvironmentFault, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("%s: not readable (%s); looked past", self.path / "results.json", error)
            return None

    @contextmanager
    def opened(self, resume: str, ranks: Ranks) -> Iterator[Path | None]:
        """Make and lock the folder; gives every rank the checkpoint to resume from, or None.

        Raises EnvironmentFault where the ranks do not all see it: their work could not be saved.
        """
        words = RESUME_WORDS
        if resume not in words and not (Path(resume) / MANIFEST).is_file():
            accepted = f"{', '.join(words)}, or a checkpoint's folder"
            raise InputError(f"trainer.resume: found '{resume}'; accepted: {accepted}")
        if resume == "must" and not (published(self.path) or any(self.path.glob(".bad-*"))):
            raise InputError(f"trainer.resume: must, and {self.path} holds no checkpoint")
        with ExitStack() as stack:
            main = ranks.is_main
            found = together(ranks, lambda: self._lock(stack, resume) if main else None)[0]
            together(ranks, lambda: check_seen(self.path / LOCK))
            yield None if found is None else Path(found)

    def _lock(self, stack: ExitStack, resume: str) -> str | None:
        stack.enter_context(RunLock(self.path))
        checkpoint = choose(self.path, resume)
        self._continue(checkpoint)
        if checkpoint is None and (self.model.exists() or (self.path / "results.json").exists()):
            raise InputError(
                f"output_dir: {self.path} holds a finished run without checkpoints to go on from; "
                "accepted: another output_dir"
            )
        return None if checkpoint is None else str(checkpoint)

    def _continue(self, checkpoint: Path | None) -> None:
        """Remember a run in another folder that this one goes on from, and take its rows over."""
        if checkpoint is None:
            if self.metrics.path.exists():
                logger.warning("%s: has no checkpoint; the run starts over", self.path)
        elif checkpoint.resolve().parent == self.path.resolve():
            self.origin = origin_of(checkpoint)
        else:
            self.origin = str(checkpoint.resolve())
            rows = checkpoint.parent / self.metrics.path.name
            files.write_bytes(self.metrics.path, files.read_bytes(rows) if rows.exists() else b"")

    def write_config(self, config: Mapping[str, Any]) -> None:
        """config.yaml, which `from=` repeats. JSON is YAML, but people read this one."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        files.write_text(self.path / "config.yaml", text, private=True)

    def write_dropped(self, rows: Sequence[BadRow], name: str = "dropped.jsonl") -> None:
        """The rows that were left out, if there are some: each with its place and the reason."""
        path = self.path / name
        if rows or path.exists():
            lines = (json.dumps(row.to_json(), ensure_ascii=False, default=str) for row in rows)
            files.write_text(path, "".join(f"{line}\n" for line in lines))

    def log(self, row: Mapping[str, Any]) -> None:
        """Add a row to metrics.jsonl."""
        self.metrics.append(row)

    def save_checkpoint(
        self,
        step: int,
        fill: Callable[[Path], None],
        *,
        ranks: Ranks,
        limit: int,
        best: int | None,
        expected_bytes: int = 0,
        background: BackgroundSave | None = None,
    ) -> Path | None:
        """Publish the checkpoint of a step, then let old ones go. Every rank calls it.

        With `background` it only copies what `fill` writes and gives None: the rest is done there.
        """
        final, newest = self.checkpoint(step), self.newest
        least = max(expected_bytes, 0 if newest is None else _size(newest))
        staging = begin(final, least, ranks)

        def write(ranks: Publishers, fill: Callable[[Path], None]) -> Path:
            main = ranks.rank == 0
            together(ranks, lambda: self.metrics.sync() if main else None)
            facts = {"step": step} | ({"origin": self.origin} if self.origin else {})
            complete(staging, final, fill, facts=facts, ranks=ranks)
            if main:
                retain(self.path, limit, best)
            return final

        if background is None:
            return write(ranks, fill)
        kept, shared = deferred(staging, fill, ranks)
        if shared:  # the threads of all ranks meet
            background.start(lambda: write(ranks.of_thread("saving"), lambda _: kept.write()))
        elif ranks.is_main:  # a rank that is lost meanwhile does not take the checkpoint with it
            background.start(lambda: write(Alone(), lambda _: kept.write()))
        else:
            background.start(lambda: final)
        return None

    def publish_model(self, step: int, fill: Callable[[Path], None], ranks: Ranks) -> Path:
        """Publish model/, replacing one of an earlier end. Every rank calls it."""
        return publish(self.model, fill, facts={"step": step}, ranks=ranks)

    def write_predictions(self, name: str, lines: Iterable[str]) -> None:
        """predictions.jsonl, or predictions-<name>.jsonl of a named evaluation set."""
        file = f"predictions-{name}.jsonl" if name else "predictions.jsonl"
        files.write_text(self.path / file, "".join(f"{line}\n" for line in lines))
        files.fsync_folder(self.path)

    def write_results(self, results: Mapping[str, Any]) -> None:
        """results.json: written last, so that what it tells of is there."""
        files.write_json(self.path / "results.json", results)
        files.fsync_folder(self.path)


def resume_from(settings: TrainSettings) -> str:
    """trainer.resume, a path as an absolute one: the process may change its working folder."""
    resume = settings.resume
    return resume if resume in RESUME_WORDS else str(Path(resume).absolute())


def asked_of(settings: TrainSettings) -> dict[str, Any]:
    """What decides when a run is over: a stopped one goes on if it is asked for more."""
    names = ("num_epochs", "max_steps", "early_stopping_patience")
    return {name: getattr(settings, name) for name in names}


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
