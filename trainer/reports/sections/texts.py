"""Texts: shows the texts that a language model generated for the same prompts during training."""

from trainer.reports.markup import Markup, element, folded, joined, section
from trainer.reports.run_record import RunRecord
from trainer.reports.sections.examples import long_text

MOST_PROMPTS = 10
SHOWN = 4
"""The number of texts to show for a prompt: the first text and the last ones."""


def texts(record: RunRecord) -> Markup | str:
    """The section, with the generated texts of each prompt by step."""
    by_prompt: dict[str, dict[int, str]] = {}
    for line in record.lines("samples.jsonl"):
        by_prompt.setdefault(str(line["prompt"]), {})[int(line["step"])] = str(line["text"])
    if not by_prompt:
        return ""
    prompts = list(by_prompt.items())[:MOST_PROMPTS]
    return section("Texts over time", joined(_of_prompt(*entry) for entry in prompts))


def _of_prompt(prompt: str, written: dict[int, str]) -> Markup:
    steps = sorted(written)
    shown = [steps[0], *steps[1:][-(SHOWN - 1) :]]
    others = [step for step in steps if step not in shown]
    more = folded(f"{len(others)} more steps", *(_text(s, written[s]) for s in others))
    head = element("header", element("strong", "Prompt"), long_text(prompt))
    texts = (_text(step, written[step]) for step in shown)
    return element("article", head, *texts, more if others else "")


def _text(step: int, text: str) -> Markup:
    return joined((element("p", f"Step {step:,}", class_="note"), long_text(text)))
