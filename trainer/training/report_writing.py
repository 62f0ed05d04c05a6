"""ReportWriting: writes a run's report and facts.json; a failure is only a warning."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType

from trainer.callbacks.callback import RunFacts
from trainer.errors import InputError
from trainer.redaction import redacted_text
from trainer.reports.facts import Facts
from trainer.training.session import Session

logger = logging.getLogger("trainer")

PATIENCE = 100
"""During a run, wait this multiple of the time that a report takes before writing the next one."""
FIRST_COST = 0.3
"""The assumed seconds that the first report takes."""


class ReportWriting:
    """The report of a run, written by the main process if the run has a folder."""

    def __init__(self, session: Session) -> None:
        setup = session.setup
        self.session = session
        wanted = setup.settings.report and setup.ranks.is_main
        self.folder = setup.folder.path if wanted and setup.folder else None
        self._facts: Facts | None = None
        self._cost = FIRST_COST
        self._last = time.perf_counter()
        self._begun = self._ended = False
        self._is_quiet = False
        """Whether a failure to write the report is not logged, since the run itself has failed."""

    def begin(self, facts: RunFacts) -> None:
        """Write facts.json before the first step."""
        self._begun = True
        self._run_or_warn(lambda: self._begin(facts))

    def evaluated(self) -> None:
        """Write the report after an evaluation, if that takes less than 1 % of the run's time."""
        if time.perf_counter() - self._last > PATIENCE * self._cost:
            self._write()

    def ended(self) -> None:
        """Write the report of a finished run, after all other files."""
        self._ended = True
        self._end("finished")

    def closed(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the report of a run that ended before it was complete, with the reason."""
        if self._begun and not self._ended:
            self._is_quiet = error is not None
            self._end("" if error is None else redacted_text(str(error)) or type(error).__name__)

    def _end(self, reason: str) -> None:
        def record_end() -> None:
            if self._facts is not None and self.folder is not None:
                last = replace(self._facts.starts[-1], ended=reason)
                self._facts = replace(self._facts, starts=[*self._facts.starts[:-1], last])
                self._facts.write(self.folder)

        self._run_or_warn(record_end)
        self._write()

    def _begin(self, facts: RunFacts) -> None:
        from trainer.reports.run_record import RunRecord
        from trainer.training.report_facts import report_facts

        assert self.folder is not None
        earlier = []
        if facts.first_step:
            try:
                written = RunRecord.read(self.folder).facts
                earlier = list(written.starts) if written else []
            except InputError as error:
                logger.warning("%s; the report does not show earlier starts", error)
        self._facts = report_facts(self.session, facts, earlier)
        self._facts.write(self.folder)

    def _write(self) -> None:
        from trainer.reports.run_report import write_report

        def write() -> None:
            assert self.folder is not None
            write_report(self.folder)

        started = time.perf_counter()
        self._run_or_warn(write)
        self._last = time.perf_counter()
        self._cost = max(self._last - started, 0.01)

    def _run_or_warn(self, action: Callable[[], None]) -> None:
        """Call `action` if reports are wanted; log any error as one line."""
        if self.folder is None:
            return
        try:
            action()
        except Exception as error:
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            if not self._is_quiet:
                logger.warning("report: not written to %s (%s)", self.folder, problem)
