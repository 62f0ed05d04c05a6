"""A console that escapes control characters in texts, so that no text can move the cursor."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from trainer.terminal.plain_text import plain


class PlainConsole(Console):
    """Rich's console, with all control characters in texts escaped."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield rich's control segments unchanged, and all other segments with escaped text."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(plain(segment.text), segment.style)
