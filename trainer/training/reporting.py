"""Reporting: calls callbacks and writes metrics.jsonl."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.callbacks.callback import Ask
from trainer.callbacks.trackers.tracker import Tracker
from trainer.data.streaming.shard_samples import ShardSamples
from trainer.devices.device_memory import GIB, memory_used
from trainer.training import run_facts
from trainer.training.report_writing import ReportWriting
from trainer.training.session import Session
from trainer.training.step import StepFacts
from trainer.training.tracking import forget_logged, logged_before


class Reporter:
    """Reports on a session. Every rank calls all methods; most act only on the main process."""

    def __init__(self, session: Session) -> None:
        setup = session.setup
        self.session, self.callbacks = session, setup.callbacks
        self.folder, self.is_main = setup.folder, setup.ranks.is_main
        self.report = ReportWriting(session)
        self._logged_before: dict[str, int] = {}
        self._dropped_to = 0
        """The sample of a stream up to which dropped.jsonl lists the dropped rows."""

    def cut_back(self, resumed: bool) -> None:
        """Remove the rows that an earlier attempt logged after the step at which the run starts."""
        if self.folder is None or not self.is_main:
            return
        metrics, trackers = self.folder.metrics, self.folder.trackers
        if not resumed:
            metrics.cut_back(-1)
            forget_logged(trackers)
            return
        if any(isinstance(each, Tracker) for each in self.callbacks):
            self._logged_before = logged_before(trackers, metrics.path)
        metrics.cut_back(self.session.state.step)
        self.session.state.log_history[:] = metrics.rows()

    def start(self) -> None:
        """Write config.yaml and dropped.jsonl, and call `on_start`."""
        setup = self.session.setup
        config = setup.context.description.config
        if self.is_main:
            if self.folder and config:
                self.folder.write_config(config)
            if self.folder:
                step = self.session.state.step
                self.folder.dropped.begin(run_facts.dropped_rows(setup), step)
                self._dropped_to = self.session.plan.samples_before(step)
            facts = run_facts.facts_at_start(self.session, self._logged_before)
            self.report.begin(facts)
            for callback in self.callbacks:
                callback.on_start(facts)

    def step_ended(self) -> Ask:
        """Call `on_step_end`; returns the callbacks' combined requests."""
        step, total = self.session.state.step, self.session.total_steps
        self._list_dropped(step)
        return self._combined(each.on_step_end(step, total) for each in self.callbacks)

    def _list_dropped(self, step: int) -> None:
        """Add the rows of a stream that were dropped before the samples of the next step."""
        samples = self.session.samples
        if not isinstance(samples, ShardSamples):
            return
        stop = self.session.plan.samples_before(step)
        rows = samples.dropped_between(self._dropped_to, stop)
        self._dropped_to = max(self._dropped_to, stop)
        if self.folder is not None and self.is_main:
            self.folder.dropped.add(rows)

    def step_measured(self, loss: float) -> None:
        """Call `on_step_measured` for the last step."""
        if self.is_main:
            row = {"step": self.session.state.step, "loss": loss, **self.session.throughput.rates()}
            for callback in self.callbacks:
                callback.on_step_measured(row)

    def evaluated(self, results: Mapping[str, float], improved: bool) -> Ask:
        """Call `on_evaluate`; returns the callbacks' combined requests."""
        step = self.session.state.step
        self.report.evaluated()
        return self._combined(each.on_evaluate(step, results, improved) for each in self.callbacks)

    def saved(self, checkpoint: Path | None) -> None:
        """Call `on_save` for a published checkpoint, if there is one."""
        if self.is_main and checkpoint is not None:
            for callback in self.callbacks:
                callback.on_save(checkpoint)

    def ended(self, results: Mapping[str, object]) -> None:
        """Call `on_end` with the contents of results.json."""
        self.report.ended()
        if self.is_main:
            for callback in self.callbacks:
                callback.on_end(results)

    def log_training(self, facts: StepFacts) -> None:
        """Log the steps since the last row; `facts` describe the last of these steps."""
        session, state = self.session, self.session.state
        self.log(
            session.throughput.row()
            | {"learning_rate": session.learning_rate(state.step - 1)}
            | {"grad_norm": facts.grad_norm}
            | self._memory()
            | ({"skipped_steps": state.skipped} if state.skipped else {})
        )

    def _memory(self) -> dict[str, float]:
        """The memory that this process uses now, and the most so far."""
        now, most = memory_used(self.session.setup.ranks.device)
        return {"memory_gib": round(now / GIB, 4), "peak_memory_gib": round(most / GIB, 4)}

    def log(self, values: Mapping[str, object]) -> None:
        """Write a row to metrics.jsonl and pass it to callbacks."""
        session, step = self.session, self.session.state.step
        epochs = session.epochs(step)
        row = {
            "step": step,
            **({} if epochs is None else {"epoch": round(epochs, 4)}),
            "samples": session.plan.samples_before(step),
            "tokens": session.state.tokens,
            **values,
        }
        session.state.log_history.append(row)
        if not self.is_main:
            return
        if self.folder:
            self.folder.log(row)
        for callback in self.callbacks:
            callback.on_log(row)

    def _combined(self, answers: Iterable[Ask | None]) -> Ask:
        """The callbacks' combined requests; records the reason for a stop."""
        requests = [ask for ask in answers if ask is not None]
        for ask in requests:
            if ask.stop:
                self.session.state.stopped = ask.reason or "a callback asked to stop"
        return Ask(
            save=any(ask.save for ask in requests), evaluate=any(ask.evaluate for ask in requests)
        )
