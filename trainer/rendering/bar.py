"""Bars: how far a training or an evaluation is, its speed and the time left."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def training_bar(console: Console, first_step: int, total_steps: int) -> Progress:
    """A bar of one task with the fields `loss` and `speed`; it leaves nothing when stopped."""
    bar = Progress(
        MofNCompleteColumn(),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
        TextColumn("[dim]loss[/] {task.fields[loss]}"),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("[dim]left[/]"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
        speed_estimate_period=120,
    )
    bar.add_task("training", completed=first_step, total=total_steps, loss="-", speed="")
    return bar


def evaluation_bar(console: Console, total: int) -> Progress:
    """A bar of one task with the fields `speed` and `left`; it leaves nothing when stopped."""
    bar = Progress(
        TextColumn("evaluating"),
        MofNCompleteColumn(),
        BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
        TextColumn("{task.fields[speed]}"),
        TextColumn("{task.fields[left]} [dim]left[/]"),
        console=console,
        expand=True,
        transient=True,
        refresh_per_second=4,
    )
    bar.add_task("evaluating", total=total, speed="", left="")
    return bar
