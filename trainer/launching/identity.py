"""Identity: the config and code that must be equal on all ranks of a run."""

import hashlib
import inspect
from collections.abc import Mapping
from pathlib import Path

from trainer.runs.run import Run


def identity(run: Run) -> dict[str, str]:
    """Dotted key -> config value, except `launch`; also torch's version and the code's digest."""
    import torch

    from trainer.runs.outcome import flat

    derived = ("output_dir", "run_name")  # compared last, since they follow from the others
    config = {key: value for key, value in run.config.items() if key not in ("launch", *derived)}
    config |= {key: run.config[key] for key in derived}
    entries = {key: str(value) for key, value in flat(config).items()}
    return entries | {"torch": torch.__version__, "the code": _code(run)}


def difference(first: Mapping[str, str], other: Mapping[str, str]) -> str:
    """The first entry in which two identities differ, for example "seed is 1, not 0"."""
    key = next(k for k in [*first, *other] if first.get(k) != other.get(k))
    return f"{key} is {other.get(key, 'not set')}, not {first.get(key, 'not set')}"


def _code(run: Run) -> str:
    """A digest of this package's source files, and of those that define the parts of the run."""
    parts = [run.recipe, run.dataset, *run.metrics.values(), *run.callbacks.values()]
    classes = {type(part) for part in parts if part is not None}
    files = {*Path(__file__).parents[1].rglob("*.py"), *(Path(inspect.getfile(c)) for c in classes)}
    digests = sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:12]
