"""Identity: what the ranks of one run must have in common, and how two of them differ."""

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path

from trainer.run import Run


def identity(run: Run) -> dict[str, str]:
    """The config (less where and how it is launched) by dotted key, and what code it runs."""
    import torch

    from trainer.outcome import flat

    derived = ("output_dir", "run_name")  # last: where they differ, what they are made of does
    config = {key: value for key, value in run.config.items() if key not in ("launch", *derived)}
    config |= {key: run.config[key] for key in derived}
    entries = {key: str(value) for key, value in flat(config).items()}
    return entries | {"torch": torch.__version__, "the code": _code(run)}


def difference(first: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The first entry in which two identities differ: "seed is 1, not 0"."""
    key = next(k for k in [*first, *other] if first.get(k) != other.get(k))
    return f"{key} is {other.get(key, 'not set')}, not {first.get(key, 'not set')}"


def _code(run: Run) -> str:
    """A digest of our own source, and of the parts of the run that may come from elsewhere."""
    parts = [run.recipe, run.dataset, *run.metrics.values(), *run.callbacks.values()]
    classes = {type(part) for part in parts if part is not None}
    files = {*Path(__file__).parents[1].rglob("*.py"), *(Path(inspect.getfile(c)) for c in classes)}
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
