"""Draws the figures of docs/how: batches, losses, the order of samples, and checkpoints.

python docs/draw_figures.py

The numbers in the figures are computed by the code that they explain, so a test can compare them.
"""

import sys
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images"
COLOURS = ("#9ecae1", "#fdd0a2", "#a1d99b", "#dadaeb", "#fcbba1", "#d9d9b0")
"""The colors of samples. Black text is readable on all of them."""
PAD = "#f2f2f2"


@dataclass
class Drawing:
    """An SVG on a light card, so that it is readable on pages of any color."""

    width: int
    height: int
    title: str
    parts: list[str] = field(default_factory=list)

    def box(self, x: float, y: float, w: float, h: float, text: str = "", fill: str = PAD) -> None:
        """Add a rectangle with a text in its middle; newlines separate several lines."""
        shape = f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}"'
        self.parts.append(f'{shape} stroke="#444" rx="2"/>')
        lines = text.split("\n") if text else []
        for number, line in enumerate(lines):
            middle = y + h / 2 + 5 + 17 * (number - (len(lines) - 1) / 2)
            self.text(x + w / 2, middle, line, anchor="middle")

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", bold: bool = False
    ) -> None:
        """Add a text that starts at the point, or has its middle or end there (`anchor`)."""
        weight = ' font-weight="bold"' if bold else ""
        place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"{weight}'
        self.parts.append(f"<text {place}>{escape(text)}</text>")

    def arrow(self, x1: float, y1: float, x2: float, y2: float) -> None:
        """Add a line with an arrow head at its end."""
        line = f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"'
        self.parts.append(f'{line} stroke="#444" stroke-width="1.5" marker-end="url(#head)"/>')

    def svg(self) -> str:
        """The content of the SVG file."""
        head = '<path d="M0 0 L8 4 L0 8 z" fill="#444"/>'
        place = 'markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto"'
        marker = f'<marker id="head" {place}>{head}</marker>'
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        style = 'font-family="system-ui, sans-serif" font-size="14" fill="#111"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>',
            f"<title>{escape(self.title)}</title><defs>{marker}</defs>",
            f'<rect width="{self.width}" height="{self.height}" rx="8" fill="#fff"/>',
            *self.parts,
        ]
        return "\n".join([*lines, "</svg>", ""])


def batches() -> str:
    """The figure of the same texts as a padded rectangle, and one after the other."""
    lengths, cell = (7, 4, 9, 3, 5), 24
    widest, total = max(lengths), sum(lengths)
    places = widest * len(lengths)
    drawing = Drawing(730, 330, "A padded batch and a flat batch of the same five texts")
    drawing.text(20, 30, f"padded: {places} positions, {places - total} of them pads", bold=True)
    for row, length in enumerate(lengths):
        for column in range(widest):
            inside = column < length
            fill = COLOURS[row] if inside else PAD
            text = str(column) if inside else "·"
            drawing.box(20 + cell * column, 42 + cell * row, cell, cell, text, fill)
    drawing.text(20, 205, f"flat: {total} positions, no pads", bold=True)
    at = 20.0
    for row, length in enumerate(lengths):
        for column in range(length):
            drawing.box(at, 217, cell, cell, str(column), COLOURS[row])
            at += cell
    borders = np.cumsum(lengths).tolist()
    drawing.text(20, 270, "The numbers are positions; each text begins at 0.")
    drawing.text(20, 292, f"sequence_lengths: {list(lengths)}, borders after {borders}")
    drawing.text(20, 314, "Attention stops at the borders; linear layers see all texts as one row.")
    return drawing.svg()


def losses() -> str:
    """The figure of a batch split in three ways: sums over counts agree, means of means do not."""
    sums, counts = (3, 2, 4, 3), (1, 4, 2, 1)
    splits = ([[0, 1, 2, 3]], [[0, 1], [2, 3]], [[0], [1, 2, 3]])
    drawing = Drawing(
        730, 300, "Three splits of a batch: means of means differ, sums over counts do not"
    )
    titles = ((20, "split"), (400, "mean of the means"), (580, "sum / count"))
    for x, title in titles:
        drawing.text(x, 30, title, bold=True)
    for row, split in enumerate(splits):
        top, at = 48 + 74 * row, 20.0
        for part in split:
            for sample in part:
                tokens = f"{counts[sample]} token{'s' if counts[sample] > 1 else ''}"
                text = f"loss {sums[sample]}\n{tokens}"
                drawing.box(at, top, 78, 50, text, COLOURS[sample])
                at += 80
            at += 14
        means = [sum(sums[i] for i in part) / sum(counts[i] for i in part) for part in split]
        drawing.text(400, top + 30, f"{sum(means) / len(means):.3f}")
        drawing.text(580, top + 30, f"{sum(sums)} / {sum(counts)} = {sum(sums) / sum(counts):.3f}")
    drawing.text(20, 284, "Each row is the same four texts, in micro batches or on devices.")
    return drawing.svg()


def order() -> str:
    """The figure of the samples of the first steps, on one process and on two."""
    from trainer.data.plan import GlobalBatchPlan

    lengths = np.array([9, 4, 7, 3, 8, 5, 6, 2, 9, 4])
    plan = GlobalBatchPlan(lengths, global_batch_size=4, seed=0)
    drawing = Drawing(730, 290, "The samples of four steps, on one process and on two")
    for column, step in enumerate(range(4)):
        left = 130 + 148 * column
        epoch, _ = divmod(step, plan.steps_per_epoch)
        drawing.text(left, 30, f"step {step + 1}, epoch {epoch + 1}", bold=True)
        _samples(drawing, left, 46, plan.global_batch(step).tolist())
        for rank in range(2):
            parts = plan.micro_batches(step, rank=rank, world_size=2)
            _samples(drawing, left, 116 + 44 * rank, np.concatenate(parts).tolist())
    for y, text in ((68, "one process"), (138, "two: rank 0"), (182, "two: rank 1")):
        drawing.text(20, y, text)
    drawing.text(20, 236, "Ten samples, four for each step: the last step of an epoch is short.")
    drawing.text(20, 258, "A step has the same samples on any number of processes, and each sample")
    drawing.text(
        20, 278, "is in one step of each epoch. Ranks get about the same number of tokens."
    )
    return drawing.svg()


def _samples(drawing: Drawing, left: float, top: float, samples: list[int]) -> None:
    for place, sample in enumerate(samples):
        fill = COLOURS[sample % len(COLOURS)]
        drawing.box(left + 32 * place, top, 30, 32, str(sample), fill)


STAGES = (
    ("write all files to\n.tmp-checkpoint-200", "removed"),
    ("sync each file\nto the disk", "removed"),
    ("write manifest.json:\nsize, SHA-256", "removed"),
    ("rename to\ncheckpoint-200", "kept"),
    ("remove those beyond\nsave_total_limit", "removal continues"),
)
"""The stages of publishing a checkpoint, in order; each with what the next start does to a folder
that a crash in this stage left."""


def checkpoints() -> str:
    """The figure of the stages of publishing a checkpoint, and what happens after a crash."""
    drawing = Drawing(940, 190, "A checkpoint is written, synced, listed in a manifest and renamed")
    for number, (stage, after_crash) in enumerate(STAGES):
        at = 20 + 184 * number
        drawing.box(at, 30, 164, 60, stage, COLOURS[0] if number < 3 else COLOURS[2])
        drawing.text(at + 82, 120, after_crash, anchor="middle")
        if number:
            drawing.arrow(at - 20, 60, at - 1, 60)
    drawing.text(
        20, 165, "Second row: what happens at the next start to a folder that a crash left there."
    )
    return drawing.svg()


FIGURES = {"batches": batches, "losses": losses, "order": order, "checkpoints": checkpoints}


def main() -> int:
    """Write all figures."""
    sys.path.insert(0, str(ROOT))
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")
    print(f"{FOLDER}: {', '.join(FIGURES)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
