"""Checkpoints: saves a session to the run's folder and restores it."""

import logging
from collections.abc import Callable
from pathlib import Path

from trainer.checkpoint.background import BackgroundSave, fits_in_memory
from trainer.checkpoint.state import read_progress
from trainer.errors import EnvironmentFault
from trainer.training.run_facts import progress
from trainer.training.session import Session
from trainer.training.step import StepFacts

logger = logging.getLogger("trainer")


class Checkpoints:
    """The checkpoints of a session; without a run folder nothing is saved.

    Every rank calls the methods.
    """

    def __init__(self, session: Session, saved: Callable[[Path | None], None]) -> None:
        """`saved` is called with each published checkpoint, or with None if there is no new one."""
        self.session = session
        self.folder, self.ranks = session.setup.folder, session.setup.ranks
        self.saved = saved
        self.background = BackgroundSave()
        self.saved_step = -1
        """The step of the newest checkpoint that was begun; -1 if there is none."""

    def restore(self, checkpoint: Path) -> None:
        """Restore the session from a checkpoint, bit for bit.

        Raises InputError if the run differs from the checkpoint's in anything that must not change.
        """
        session, settings = self.session, self.session.setup.settings
        saved = read_progress(checkpoint / "state").max_tokens
        if not (settings.max_tokens_per_micro_batch or settings.micro_batch_size):
            session.max_tokens = saved or session.max_tokens
        session.resumable.restore(checkpoint, progress(session), settings)
        self._check_best()
        if self.folder and checkpoint.resolve().parent == self.folder.path.resolve():
            self.saved_step = session.state.step

    def save(self) -> None:
        """Save a checkpoint, at most one per step; in the background if the settings allow it."""
        if self.folder is None:
            return
        self.finish()  # only one save may run at a time
        session, state = self.session, self.session.state
        if self.saved_step == state.step:
            return
        checkpoint = self.folder.save_checkpoint(
            state.step,
            self.fill,
            ranks=self.ranks,
            limit=session.setup.settings.save_total_limit,
            best=state.best.step if state.best else None,
            expected_bytes=session.resumable.num_bytes,
            background=self.background if self._in_background() else None,
        )
        self.saved_step = state.step
        self.saved(checkpoint)

    def fill(self, directory: Path) -> None:
        """Write the content of a checkpoint."""
        self.session.resumable.write(directory, progress(self.session), self.ranks)

    @property
    def failure(self) -> int:
        """The exit code if a save in the background has failed; otherwise 0."""
        return EnvironmentFault.exit_code * self.background.failed

    def check_saves(self, facts: StepFacts) -> None:
        """After a step: raise the error of a rank's failed save; report a published checkpoint."""
        if facts.leave == EnvironmentFault.exit_code:
            self.finish()
        self.saved(self.background.take_published())

    def finish(self) -> None:
        """Wait for a save in the background. Raises its error if it failed."""
        self.saved(self.background.finish(self.ranks))

    def last_good(self) -> str:
        """The end of a message: the newest checkpoint whose weights are known to be sound.

        Those weights gave a finite evaluation, or a finite loss and gradient in the next step.
        """
        session, state = self.session, self.session.state
        good_step = session.finite_step
        if session.evaluated_step <= good_step:  # the last evaluation, if any, was finite
            good_step = max(good_step, state.step - 1 - state.skipped_in_a_row)
        self.background.wait()
        good = self.folder.newest_until(good_step) if self.folder else None
        shown = self.folder.shown(good) if self.folder and good else "none"
        return f"; last good checkpoint: {shown}"

    def load_best(self, step: int) -> None:
        """Load the weights of the checkpoint of a step, and their average."""
        assert self.folder is not None
        checkpoint = self.folder.verified_checkpoint(step, self.ranks)
        self.session.resumable.read_weights(checkpoint)

    def _check_best(self) -> None:
        """Drop the best evaluation if it is not comparable or its weights cannot be loaded."""
        session, best = self.session, self.session.state.best
        session.finite_step = best.step if best else -1
        if best is None or self.folder is None:
            return
        reason = "" if best.metric == session.best_metric else f"it was chosen by {best.metric}"
        if not reason and session.setup.settings.load_best_model_at_end:
            reason = self._damage_of(best.step)
        if reason:
            logger.warning("resume: the best model so far does not count: %s", reason)
            session.state.best = None

    def _damage_of(self, step: int) -> str:
        """The reason why the checkpoint of a step cannot be used; empty if it can be used."""
        assert self.folder is not None
        try:
            self.folder.verified_checkpoint(step, self.ranks)
        except EnvironmentFault as fault:
            return str(fault)
        return ""

    def _in_background(self) -> bool:
        wanted = self.session.setup.settings.async_save
        if wanted != "auto":
            return wanted
        return fits_in_memory(self.session.resumable.copied_bytes(self.ranks), self.ranks)
