"""Bars: rich's progress bars, on terminals and (without further packages) in notebooks."""

import time
from typing import TYPE_CHECKING, Protocol

from rich.progress import Progress, ProgressColumn, TaskID

if TYPE_CHECKING:
    from rich.console import Console

REFRESHED = 0.5
"""Seconds between two redraws of a bar in a notebook."""


class _Output(Protocol):
    """A part of a cell's output that can be updated."""

    def update(self, shown: object) -> None: ...


def can_show_bar(console: "Console") -> bool:
    """Whether printed text can be replaced later: true on a terminal and in a notebook."""
    return console.is_interactive or console.is_jupyter


def make_bar(console: "Console", *columns: ProgressColumn) -> Progress:
    """Create a bar, which disappears when it is stopped; the console must pass `can_show_bar`."""
    kind = _NotebookBar if console.is_jupyter else Progress
    return kind(
        *columns,
        console=console,
        auto_refresh=not console.is_jupyter,
        transient=True,
        refresh_per_second=4,
        speed_estimate_period=120,
    )


class _NotebookBar(Progress):
    """A bar in the output of a notebook's cell. rich's own bar would need ipywidgets there.

    The bar is drawn only when it is updated: notebooks do not show the output of other threads.
    """

    _output: _Output | None = None
    _drawn = 0.0

    def start(self) -> None:
        """Show the bar in the output of the current cell."""
        from IPython.display import display

        if self._output is None:
            self._drawn = time.monotonic()
            self._output = display(self._shown(), display_id=True)

    def stop(self) -> None:
        """Remove the bar."""
        from IPython.display import HTML

        if self._output is not None:
            self._output.update(HTML(""))
            self._output = None

    def refresh(self) -> None:
        """Draw the current state of the bar."""
        if self._output is not None:
            self._drawn = time.monotonic()
            self._output.update(self._shown())

    def update(self, task_id: TaskID, **changes: object) -> None:  # type: ignore[override]
        """Change a task; the bar is drawn again at most every REFRESHED seconds."""
        super().update(task_id, **changes)  # type: ignore[arg-type]
        if time.monotonic() - self._drawn >= REFRESHED:
            self.refresh()

    def _shown(self) -> object:
        from io import StringIO

        from rich.console import Console
        from rich.jupyter import JUPYTER_HTML_FORMAT, JupyterRenderable

        page = Console(file=StringIO(), record=True, width=self.console.width, force_jupyter=False)
        page.print(self.get_renderable())
        html = page.export_html(inline_styles=True, code_format=JUPYTER_HTML_FORMAT, clear=False)
        return JupyterRenderable(html, page.export_text())
