"""PlainAnswers: a synthetic preference data set, which prefers plain answers to wordy ones."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from trainer.data.renamed_columns import renamed
from trainer.data.rows import Splits, check_amounts
from trainer.data.splits import limited
from trainer.option_types import Options

CAPITALS = {
    "Argentina": "Buenos Aires", "Australia": "Canberra", "Austria": "Vienna",
    "Belgium": "Brussels", "Brazil": "Brasilia", "Bulgaria": "Sofia", "Canada": "Ottawa",
    "Chile": "Santiago", "China": "Beijing", "Colombia": "Bogota", "Croatia": "Zagreb",
    "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Estonia": "Tallinn",
    "Finland": "Helsinki", "France": "Paris", "Germany": "Berlin", "Greece": "Athens",
    "Hungary": "Budapest", "Iceland": "Reykjavik", "India": "New Delhi", "Indonesia": "Jakarta",
    "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi", "Latvia": "Riga",
    "Lithuania": "Vilnius", "Mexico": "Mexico City", "Morocco": "Rabat", "Norway": "Oslo",
    "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest",
    "Russia": "Moscow", "Serbia": "Belgrade", "Slovakia": "Bratislava", "Spain": "Madrid",
    "Sweden": "Stockholm", "Switzerland": "Bern", "Thailand": "Bangkok", "Tunisia": "Tunis",
    "Turkey": "Ankara", "Ukraine": "Kyiv", "Uruguay": "Montevideo", "Vietnam": "Hanoi",
}  # fmt: skip
QUESTIONS = (
    ("What is the capital of {country}?", "{capital} is the capital of {country}."),
    ("Which city is the capital of {country}?", "The capital of {country} is {capital}."),
    ("{country}: name its capital.", "Its capital is {capital}."),
    ("Of which country is {capital} the capital?", "{capital} is the capital of {country}."),
)
"""The template of a question, and the template of its plain answer."""
WORDY = (
    "Great question! {answer}",
    "I'm so glad you asked! {answer}",
    "{answer} I hope this helps!",
    "{answer} Feel free to ask me more!",
    "Well, let me think. {answer}",
    "As an AI, I would say: {answer}",
    "Sure thing! {answer} Have a great day!",
)
"""Templates that turn a plain answer into a wordy one."""
HELD_OUT = 6
"""One country in this many is held out for evaluation."""


@dataclass(frozen=True)
class PlainAnswers(Options, where="dataset"):
    """Questions about capitals, each with a plain answer (chosen) and a wordy one (rejected).

    The columns are prompt, chosen and rejected. Without `paired` they are prompt, completion and
    label, and plain and wordy answers alternate. The countries of the evaluation rows occur in no
    training row.
    """

    paired: bool = True
    """Whether a row has a chosen and a rejected answer; if false, a row has one completion, with a
    label (true for a good completion)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns to rename, as {old name: new name}."""
    max_train_rows: int | None = None
    """The largest number of training rows, sampled with the seed; null: all."""
    max_eval_rows: int | None = None
    """The largest number of validation rows, sampled with the seed; null: all."""
    seed: int = 0
    """Seed for sampling rows."""

    validation_fraction = 1 / HELD_OUT

    def __post_init__(self) -> None:
        check_amounts(self)

    def load(self) -> Splits:
        """The training and validation rows, the same on every call."""
        from datasets import Dataset

        parts: tuple[list[dict[str, object]], list[dict[str, object]]] = ([], [])
        for number, country in enumerate(CAPITALS):
            for row in self._rows(number, country):
                parts[number % HELD_OUT == 0].append(row)
        train, held_out = (
            renamed(Dataset.from_list(rows), self.columns, "dataset.columns") for rows in parts
        )
        return Splits(
            train=limited(train, self.max_train_rows, self.seed),
            validation={"": limited(held_out, self.max_eval_rows, self.seed)},
        )

    def _rows(self, number: int, country: str) -> Iterator[dict[str, object]]:
        capital = CAPITALS[country]
        for place, (question, plain) in enumerate(QUESTIONS):
            prompt = question.format(country=country, capital=capital)
            answer = plain.format(country=country, capital=capital)
            wordy = WORDY[(number + place * 2) % len(WORDY)].format(answer=answer)
            if self.paired:
                yield {"prompt": prompt, "chosen": answer, "rejected": wordy}
            else:
                for completion, label in ((answer, True), (wordy, False)):
                    yield {"prompt": prompt, "completion": completion, "label": label}
