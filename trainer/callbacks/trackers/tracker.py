"""Tracker: a callback that logs to an experiment tracker; a resumed run continues its log."""

import importlib.util
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from trainer.callbacks.callback import Callback, RunFacts
from trainer.checkpoint import files
from trainer.errors import EnvironmentFault, InputError
from trainer.runs.outcome import flat

ID = re.compile("[A-Za-z0-9_.-]{1,128}")


class Opened(Protocol):
    """An open run of a tracker: the interface of Accelerate's tracker classes."""

    @property
    def tracker(self) -> Any:
        """The run object of the tracker's library."""

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Log the config of a run."""

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Log numbers at a step."""

    def finish(self) -> None:
        """Close the run."""


@dataclass
class Tracker(Callback):
    """Logs the config of a run, and each row of metrics.jsonl, to an experiment tracker.

    After a crash, a resumed run repeats steps that are already logged. If the tracker cannot
    replace logged points, they are not sent again; a repeated step has the same numbers.
    """

    project: str = "tempering"
    """The project, or experiment, that the run belongs to."""
    run_name: str | None = None
    """The run's name in the tracker; null: the name of its folder."""
    options: dict[str, Any] = field(default_factory=dict)
    """Additional arguments of the library's function that opens a run."""

    name: ClassVar[str]
    """Accelerate's name for the tracker."""
    package: ClassVar[str]
    """The package that must be installed."""
    hides_repeated_steps: ClassVar[bool] = False
    """Whether the tracker replaces points that a resumed run logs again."""

    def __post_init__(self) -> None:
        self.run_id = ""
        """The tracker's id of the run, which checkpoints store; empty before the run is opened."""
        self._opened: Opened | None = None
        self._logged: dict[str, int] = {}

    def check_installed(self) -> None:
        """Raise InputError if the package is missing.

        Training calls this before any slow work. Other jobs do not call it, so a run can be
        evaluated on a machine without the package.
        """
        if importlib.util.find_spec(self.package) is None:
            found = f"{self.package} is not installed"
            raise InputError(f"callbacks.{self.key()}: {found}; pip install {self.package}")

    @classmethod
    def key(cls) -> str:
        """The tracker's name in `callbacks` and `trainer.trackers`."""
        return cls.__module__.rpartition(".")[2]

    def arguments(self, facts: RunFacts, folder: Path, resumed: bool) -> dict[str, Any]:
        """The arguments that open a new run, or continue the run `run_id` if `resumed`.

        Files are written to `folder`.
        """
        raise AssertionError(f"{type(self).__name__} opens no run")

    def new_id(self) -> str:
        """An id for a new run."""
        return secrets.token_hex(4)

    def id_of(self, opened: Opened) -> str:
        """The id of an opened run; override this if the library chooses it."""
        return self.run_id

    def on_start(self, facts: RunFacts) -> None:
        """Open the run. Raises EnvironmentFault if that fails, InputError without output_dir."""
        if facts.output_dir is None:
            raise InputError(f"callbacks.{self.key()}: needs an output_dir to write to")
        folder = facts.output_dir / "trackers"
        files.make_folder(folder)
        resumed = bool(self.run_id)
        self.run_id = self.run_id or self.new_id()
        self._logged = {} if self.hides_repeated_steps or not resumed else {**facts.logged_before}
        try:
            self._opened = self._open(facts, folder, resumed)
        except Exception as error:  # each library raises its own exceptions
            reason = " ".join(str(error).split()) or type(error).__name__
            text = f"callbacks.{self.key()}: the tracker cannot be opened: {reason}"
            raise EnvironmentFault(text) from error

    def _open(self, facts: RunFacts, folder: Path, resumed: bool) -> Opened:
        from trainer.devices.placement import open_tracker

        arguments = {**self.arguments(facts, folder, resumed), **self.options}
        opened = open_tracker(self.name, self.project, folder, arguments)
        self.run_id = self.id_of(opened)
        if not resumed:
            opened.store_init_configuration(flat(facts.config))
        return opened

    def name_of_run(self, facts: RunFacts) -> str:
        """The run's name in the tracker."""
        assert facts.output_dir is not None
        return self.run_name or facts.output_dir.name

    def on_log(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row of metrics.jsonl, each at most once per step."""
        if self._opened is None:
            return
        step = row["step"]
        new = {
            name: value
            for name, value in row.items()
            if name != "step" and isinstance(value, (int, float))
            if self._logged.get(name, -1) < step
        }
        if new:
            self._logged |= dict.fromkeys(new, step)
            self._opened.log(new, step=step)

    def on_close(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            opened.finish()

    def state(self) -> dict[str, Any]:
        return {"run": self.run_id} if self.run_id else {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        run = state.get("run", "")
        if run and not ID.fullmatch(run):
            raise ValueError(f"the run id is {run!r:.60}, not 1 to 128 letters, digits or _ . -")
        self.run_id = run
