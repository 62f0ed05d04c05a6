"""ImageProcessor: converts images, given as lists of gray or color values, to arrays."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.checkpoint import files
from trainer.errors import InputError, RowError

FILE = "preprocessor_config.json"


@dataclass(frozen=True)
class ImageProcessor:
    """Scales the values of images from 0 .. `largest` to -1 .. 1."""

    largest: float = 255.0

    @classmethod
    def from_pretrained(cls, folder: Path) -> "ImageProcessor":
        """The processor that `save_pretrained` wrote."""
        try:
            found = json.loads((folder / FILE).read_text())
            return cls(largest=float(found["largest"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            found = f"not readable ({error})"
            accepted = "the file of a trained model"
            raise InputError(f"{folder / FILE}: {found}; accepted: {accepted}") from None

    def save_pretrained(self, directory: str | Path) -> None:
        """Write preprocessor_config.json."""
        files.write_json(Path(directory) / FILE, asdict(self))

    def fingerprint(self) -> str:
        """A digest, equal for processors that scale in the same way."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()

    def __call__(self, images: Sequence[Any], size: int, channels: int) -> np.ndarray:
        """Convert images [H][W] or [H][W][channels] to float32 [N, channels, H, W].

        Raises RowError for an image of another size.
        """
        arrays = []
        for row, image in enumerate(images):
            try:
                array = np.asarray(image, dtype=np.float32)
            except (TypeError, ValueError):
                raise RowError(row, f"found {image!r:.40}; accepted: rows of numbers") from None
            array = array[..., None] if array.ndim == 2 else array
            if array.shape != (size, size, channels):
                found = f"found an image of shape {list(array.shape)}"
                raise RowError(row, f"{found}; accepted: {[size, size, channels]}")
            arrays.append(array.transpose(2, 0, 1))
        return np.stack(arrays) * np.float32(2 / self.largest) - np.float32(1)
