"""RunFolder: the files in output_dir, and a lock so that only one run at a time writes them.

If output_dir is in an object store, the files are in a local working copy and are uploaded from it.
"""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.checkpoint.background import BackgroundSave
from trainer.checkpoint.lock import LOCK, RunLock
from trainer.checkpoint.publish import (
    FAULTS,
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
from trainer.checkpoint.resume import choose, origin_of, require_no_run
from trainer.checkpoint.retain import retain
from trainer.checkpoint.verify import MANIFEST, verify
from trainer.devices.ranks import Ranks
from trainer.errors import EnvironmentFault, InputError
from trainer.runs.dropped_rows import DroppedRows
from trainer.settings import TrainSettings, default_of, names_of
from trainer.stores.run_store import RunStore
from trainer.stores.url import is_in_store, is_url, plain_path
from trainer.terminal.plain_text import short_path

logger = logging.getLogger("trainer")

UNREADABLE: tuple[type[Exception], ...] = (
    *(EnvironmentFault, ValueError, LookupError),
    *(TypeError, AttributeError, RecursionError),
)
"""The errors raised for a results.json that is unreadable, or that another program wrote."""
RESUME_WORDS = ("auto", "never", "must")
"""Values of trainer.resume that are not the path of a checkpoint."""


class RunFolder:
    """The folder of a run: config.yaml, metrics.jsonl, checkpoints, model/, results.json."""

    def __init__(self, output_dir: Path | str) -> None:
        """`output_dir`: a path or a URL. Raises InputError for a URL that cannot be written to."""
        self.store = RunStore(str(output_dir)) if is_in_store(output_dir) else None
        self.name = str(Path(plain_path(str(output_dir)))) if self.store is None else self.store.url
        """The folder as the user wrote it, for messages."""
        path = Path(self.name) if self.store is None else self.store.stage
        self.path = path.absolute()  # the process may change its working folder
        self.metrics = StepLog(self.path / "metrics.jsonl")
        self.dropped = DroppedRows(self.path / "dropped.jsonl")
        self.origin: str | None = None
        """The checkpoint in another folder from which the run began; None if there is none."""

    def make(self) -> None:
        """Create the folder, or the working copy of one in a store."""
        if self.store is not None:
            self.store.make_stage()
        files.make_folder(self.path, synced=True)

    @property
    def model(self) -> Path:
        """The folder of the final model."""
        return self.path / "model"

    @property
    def trackers(self) -> Path:
        """The folder of experiment trackers that write files."""
        return self.path / "trackers"

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that was published."""
        found = published(self.path)
        return found[max(found)] if found else None

    @property
    def newest_shown(self) -> str | None:
        """The newest checkpoint, for messages."""
        return self.shown(newest) if (newest := self.newest) else None

    def shown(self, path: Path) -> str:
        """A path below the folder, for messages; the URL if the folder is in a store."""
        return short_path(path) if self.store is None else self.store.shown(path)

    def newest_until(self, step: int) -> Path | None:
        """The newest published checkpoint of this step or an earlier one."""
        found = {number: path for number, path in published(self.path).items() if number <= step}
        return found[max(found)] if found else None

    def checkpoint(self, step: int) -> Path:
        """The path that the checkpoint of a step has or will have."""
        return checkpoint_path(self.path, step)

    def verified_checkpoint(self, step: int, ranks: Ranks) -> Path:
        """The checkpoint of a step. Raises CorruptCheckpoint, on every rank, if it is damaged."""
        checkpoint = self.checkpoint(step)
        together(ranks, lambda: str(verify(checkpoint)) if ranks.is_main else None)
        return checkpoint

    def completed(self, settings: TrainSettings, config_digest: str) -> dict[str, Any] | None:
        """The results of a finished run with this config; None if there is no such run."""
        if settings.resume not in ("auto", "must"):
            return None
        content = None if self.store is None else self.store.read_results()
        if self.store is not None and content is None:
            return None
        try:
            if content is None:
                content = files.read_bytes(self.path / "results.json")
            results = json.loads(content)
            num_samples = results["train_samples"]
            per_epoch = None if num_samples is None else settings.steps_per_epoch(num_samples)
            is_over = results["steps"] >= settings.total_steps(per_epoch)
            is_over = is_over or bool(
                results["stopped"] and _has_same_length_settings(results["asked"], settings)
            )
            is_over = is_over and (self.store is not None or self.model.is_dir())
            return results if is_over and results["config"] == config_digest else None
        except FileNotFoundError:
            return None
        except UNREADABLE as error:
            place = self.shown(self.path / "results.json")
            logger.warning("%s: not readable (%s); ignored", place, error)
            return None

    @contextmanager
    def opened(self, resume: str, ranks: Ranks) -> Iterator[Path | None]:
        """Create and lock the folder; yields the checkpoint to resume from, or None, on every rank.

        Raises EnvironmentFault if a rank does not see the folder, because that rank could not save
        its part of a checkpoint.
        """
        self._check_resume(resume)
        with ExitStack() as stack:
            main = ranks.is_main
            found = together(ranks, lambda: self._locked(stack, resume) if main else None)[0]
            together(ranks, lambda: check_seen(self.path / LOCK))
            yield None if found is None else Path(found)

    def check_resume(self, resume: str) -> None:
        """Raise InputError if `resume`, the value of trainer.resume, does not suit this folder."""
        self._check_resume(resume)
        if self.store is not None:
            return
        if resume == "never":
            require_no_run(self.path)
        if resume == "auto" and not published(self.path) and not self._has_leftovers():
            self._refuse_finished()

    def _refuse_finished(self) -> None:
        """Raise InputError for a finished run, in a folder without checkpoints."""
        if self.model.exists() or (self.path / "results.json").exists():
            raise InputError(
                f"output_dir: {self.name} holds a finished run and no checkpoint to continue from; "
                "accepted: another output_dir"
            )

    def _check_resume(self, resume: str) -> None:
        if resume not in RESUME_WORDS and not (Path(resume) / MANIFEST).is_file():
            accepted = f"{', '.join(RESUME_WORDS)}, or a checkpoint's folder on this machine"
            found = [self.shown(path) for path in published(Path(resume)).values()]
            hint = f"; did you mean {found[-1]}?" if found else ""
            raise InputError(f"trainer.resume: found '{resume}'; accepted: {accepted}{hint}")
        is_local = self.store is None
        if resume == "must" and is_local and not (published(self.path) or self._has_leftovers()):
            raise InputError(f"trainer.resume: found must, but {self.name} holds no checkpoint")

    def _has_leftovers(self) -> bool:
        """Whether there are invalid checkpoints or folders left by a crash, for `choose`."""
        return any(any(self.path.glob(each)) for each in (".bad-*", ".old-*"))

    def _locked(self, stack: ExitStack, resume: str) -> str | None:
        """Like `_lock`, with errors that name the files of a store by their URLs."""
        try:
            return self._lock(stack, resume)
        except (InputError, EnvironmentFault) as error:
            if self.store is None or str(self.path) not in error.args[0]:
                raise
            text = error.args[0].replace(str(self.path), self.name)
            raise FAULTS[error.exit_code](text) from error

    def _lock(self, stack: ExitStack, resume: str) -> str | None:
        self.make()
        stack.enter_context(RunLock(self.path))
        if self.store is not None:
            stack.enter_context(self.store.held(resume))
        checkpoint = choose(self.path, resume)
        self._continue(checkpoint)
        if checkpoint is None:
            self._refuse_finished()
        return None if checkpoint is None else str(checkpoint)

    def _continue(self, checkpoint: Path | None) -> None:
        """If the checkpoint is in another run's folder, record its path and copy the run's logs."""
        if checkpoint is None:
            if self.metrics.path.exists():
                logger.warning("%s: has no checkpoint; the run starts over", self.name)
        elif checkpoint.resolve().parent == self.path.resolve():
            self.origin = origin_of(checkpoint)
        else:
            origin = checkpoint.resolve()  # the user may have typed a link to it
            self.origin = str(origin)
            rows = origin.parent / self.metrics.path.name
            files.write_bytes(self.metrics.path, files.read_bytes(rows) if rows.exists() else b"")
            self.dropped.continue_from(origin.parent)

    def write_config(self, config: Mapping[str, object]) -> None:
        """Write config.yaml, which `from=` reads; YAML rather than JSON, since people read it."""
        import yaml

        text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
        files.write_text(self.path / "config.yaml", text, private=True)

    def log(self, row: Mapping[str, object]) -> None:
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
        """Publish the checkpoint of a step, then remove old ones. Every rank calls it.

        `fill` writes the files of a checkpoint to a folder. With `background`, the files are copied
        to memory and published by a thread, and the method returns None at once.
        """
        final, newest = self.checkpoint(step), self.newest
        least = max(expected_bytes, 0 if newest is None else _size(newest))
        staging = begin(final, least, ranks)

        def write(ranks: Publishers, fill: Callable[[Path], None]) -> Path:
            main = ranks.rank == 0
            together(ranks, lambda: self._sync_logs() if main else None)
            facts = {"step": step} | ({"origin": self.origin} if self.origin else {})
            complete(staging, final, fill, facts=facts, ranks=ranks)
            if (store := self.store) is not None:
                together(ranks, lambda: store.publish(final, limit, best) if main else None)
            if main:
                retain(self.path, limit, best)
            return final

        if background is None:
            return write(ranks, fill)
        copies, all_ranks_write = deferred(staging, fill, ranks)
        if all_ranks_write:  # the threads of all ranks exchange values
            background.start(lambda: write(ranks.of_thread("saving"), lambda _: copies.write()))
        elif ranks.is_main:  # the checkpoint stays even if a rank is lost now
            background.start(lambda: write(Alone(), lambda _: copies.write()))
        else:
            background.start(lambda: final)
        return None

    def _sync_logs(self) -> None:
        self.metrics.sync()
        self.dropped.sync()

    def publish_model(self, step: int, fill: Callable[[Path], None], ranks: Ranks) -> Path:
        """Publish model/, replacing an earlier one. Every rank calls it."""
        model = publish(self.model, fill, facts={"step": step}, ranks=ranks)
        if (store := self.store) is not None:
            together(ranks, lambda: store.publish(model) if ranks.is_main else None)
        return model

    def write_predictions(self, name: str, lines: Iterable[str]) -> None:
        """Write predictions.jsonl, or predictions-<name>.jsonl for a named evaluation set."""
        file = f"predictions-{name}.jsonl" if name else "predictions.jsonl"
        files.write_text(self.path / file, "".join(f"{line}\n" for line in lines))
        files.fsync_folder(self.path)

    def write_results(self, results: Mapping[str, object]) -> None:
        """Write results.json, after all other files, so that the files that it names exist."""
        files.write_json(self.path / "results.json", results)
        files.fsync_folder(self.path)
        if self.store is not None:
            self.store.push_files()


def resume_from(settings: TrainSettings) -> str:
    """The value of trainer.resume; a path becomes absolute, since the working folder may change."""
    resume = settings.resume
    if resume in RESUME_WORDS or is_url(resume):
        return resume
    return str(Path(resume).absolute())


def length_settings(settings: TrainSettings) -> dict[str, object]:
    """The settings that determine when a run ends; a stopped run continues if they change."""
    return {name: getattr(settings, name) for name in names_of("length", "stopping")}


def _has_same_length_settings(before: Mapping[str, object], settings: TrainSettings) -> bool:
    """Whether a stopped run had these length settings; `before` may omit default values."""
    now = length_settings(settings)
    return all(before.get(name, default_of(name)) == value for name, value in now.items())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
