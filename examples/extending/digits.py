"""Digits: 1,797 scanned digits of 8 x 8 gray values, which scikit-learn ships."""

from dataclasses import dataclass

from trainer.data.rows import Splits


@dataclass(frozen=True)
class Digits:
    """The digits (Alpaydin and Kaynak, UCI repository, 1998); the last ones are for validation."""

    num_rows: int = 1797
    """The number of digits to use, from the first on."""
    validation_fraction: float = 0.1
    """The share to hold out."""

    def load(self) -> Splits:
        """Rows with the columns `pixels` (8 lists of 8 numbers from 0 to 16) and `label`."""
        from datasets import Dataset
        from sklearn.datasets import load_digits

        found = load_digits()
        number = min(self.num_rows, len(found.target))
        rows = Dataset.from_dict(
            {
                "pixels": found.images[:number].astype(int).tolist(),
                "label": found.target[:number].tolist(),
            }
        )
        first = number - round(self.validation_fraction * number)
        held_out = {"": rows.select(range(first, number))} if first < number else {}
        return Splits(train=rows.select(range(first)), validation=held_out)
