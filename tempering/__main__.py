"""`python -m tempering` and the command `tempering`, which do the same as launch.py."""

from typing import NoReturn

from tempering.own_modules import claim


def command_line() -> NoReturn:
    """Run the job of the command line, and exit with its exit code."""
    claim("launch")
    from trainer.launching.early_signals import leave_unsaved
    from trainer.terminal import activity
    from trainer.terminal.standard_streams import open_closed_streams

    open_closed_streams()
    leave_unsaved()  # a signal ends the process at once while launch is imported
    activity.begin("tempering")
    activity.doing("starting")
    import launch

    launch.command_line()


if __name__ == "__main__":
    command_line()
