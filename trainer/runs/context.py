"""RunContext: arguments of a Trainer that commands pass and Python users rarely need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainer.data.read_options import BadRows
from trainer.devices.options import DeviceOptions


@dataclass(frozen=True)
class Description:
    """Facts about a run that it records in its folder and shows in its summaries."""

    config: Mapping[str, object] = field(default_factory=dict)
    """The resolved config without secrets, as in config.yaml; empty for runs started in Python."""
    config_digest: str = ""
    """Identifies the config, to detect a finished run of the same config in the folder."""
    model_path: str = ""
    """The model's path."""
    commands: Mapping[str, str] = field(default_factory=dict)
    """Commands to run next, by purpose."""


@dataclass(frozen=True)
class DataOptions:
    """Options for converting rows to samples, and notes about the rows."""

    bad_rows: BadRows | None = None
    """The policy for rows that the recipe refuses; None: the first such row ends the run."""
    cache_dir: Path | None = None
    """The cache of tokenized rows; None disables caching."""
    notes: Sequence[str] = ()
    """Lines for the start summary, about held-out rows and rows that occur in several sets."""
    set_recipes: Mapping[str, object] = field(default_factory=dict)
    """Name of an evaluation set -> recipe options that differ for this set, or a whole recipe."""


@dataclass(frozen=True)
class RunContext:
    """Everything that jobs pass to a Trainer besides its model, recipe, settings and data."""

    description: Description = field(default_factory=Description)
    data: DataOptions = field(default_factory=DataOptions)
    devices: DeviceOptions = field(default_factory=DeviceOptions)
