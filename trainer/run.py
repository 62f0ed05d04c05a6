"""Run: a checked config as typed values; what every job is given."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.callbacks.callback import Callback
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.models.lora_settings import LoRASettings
from trainer.output_format import output_format, refuse_own_input
from trainer.recipe import Recipe
from trainer.settings import TrainSettings


@dataclass(frozen=True)
class ModelSettings:
    """Which weights to start from, and what to change in them."""

    path: str | None = "???"
    """A folder, a .gguf file, a hub id, or pkg://package/folder; null: from_scratch by config."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    sha256: str | None = None
    """What the digest of model.safetensors must be; null: not checked."""
    config: dict[str, Any] = field(default_factory=dict)
    """Entries that replace those of config.json."""
    from_scratch: bool = False
    """Random weights: only config.json is read, or with path=null model.config alone."""
    new_head: bool = False
    """Replace a head that was trained for other labels."""
    freeze: list[str] = field(default_factory=list)
    """Patterns of parameter names that are not trained: *, ? and numbers such as [0-11]."""
    lora: LoRASettings = field(default_factory=LoRASettings)
    """Adapters that are trained in the weights' place: rank, alpha, dropout, targets, merge."""


@dataclass(frozen=True)
class TokenizerSettings:
    """Which tokenizer to use."""

    path: str | None = None
    """As model.path; null: the model's own."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    train: bool = False
    """Learn a new one from the training rows; path, if given, says what it is like."""
    kind: Literal["wordpiece", "bpe", "unigram", "gpt2"] = "gpt2"
    """What to learn where path is null: gpt2 (byte-level BPE) is for decoders."""
    vocab_size: int = 16384
    """Tokens to learn, at most."""


@dataclass(frozen=True)
class LaunchSettings:
    """How many processes to start, and where."""

    num_processes: int | str = "auto"
    """Processes on this machine; auto: one for every local GPU, else one."""
    num_nodes: int = 1
    """Machines; the same command runs on each of them, with another node_rank."""
    node_rank: int = 0
    """Which of the machines this is, from 0."""
    rendezvous: str | None = None
    """HOST:PORT on the machine with node_rank 0, where the machines meet."""
    timeout: float = 600.0
    """Seconds that a process waits for another to come, in a collective, or for a sign of life."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: each process holds the whole model; fsdp: a share of it; auto: ddp where that fits."""
    cpu_offload: bool = False
    """With fsdp: weights, gradients, moments and average stay in the host's memory."""
    reduce_gradients: Literal["auto", "step", "micro_batch"] = "auto"
    """With fsdp: add up gradients over devices once a step, or after every micro batch, which needs
    less memory and more time; auto: once where whole gradients take a tenth of it at most."""

    def __post_init__(self) -> None:
        processes = self.num_processes
        if processes != "auto" and (isinstance(processes, str) or processes < 1):
            raise InputError(f"launch.num_processes: found {processes}; accepted: auto, 1 or more")
        if self.num_nodes < 1:
            raise InputError(f"launch.num_nodes: found {self.num_nodes}; accepted: 1 or more")
        if not 0 <= self.node_rank < self.num_nodes:
            accepted = f"accepted: 0 to {self.num_nodes - 1}, below launch.num_nodes"
            raise InputError(f"launch.node_rank: found {self.node_rank}; {accepted}")
        if self.timeout <= 0:
            raise InputError(f"launch.timeout: found {self.timeout}; accepted: seconds above 0")
        if self.cpu_offload and self.strategy != "fsdp":
            found = f"found true with launch.strategy={self.strategy}"
            raise InputError(
                f"launch.cpu_offload: {found}; accepted: launch.strategy=fsdp, or false"
            )
        if self.rendezvous is None and self.num_nodes > 1:
            accepted = "accepted: HOST:PORT, the same on all machines"
            raise InputError(f"launch.rendezvous: nothing given; {accepted}")
        if self.rendezvous is not None:
            _ = self.meeting_point

    @property
    def meeting_point(self) -> tuple[str, int]:
        """Host and port of the rendezvous."""
        host, _, port = (self.rendezvous or "").rpartition(":")
        if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
            found = f"found '{self.rendezvous}'"
            raise InputError(f"launch.rendezvous: {found}; accepted: HOST:PORT, port 1 to 65535")
        return host.strip("[]"), int(port)


@dataclass(frozen=True)
class InputSettings:
    """What predict, generate and chat read besides a data set."""

    text: str | None = None
    """One text, taken as the shell passed it; a JSON list is several; - is standard input."""
    text_pair: str | None = None
    """The second text of a pair, in the same forms."""
    prompt: str | None = None
    """What generate goes on with, in the same forms."""
    file: str | None = None
    """A file of rows (jsonl, json, csv, tsv, parquet, txt: one text a line)."""
    chat: bool | Literal["auto"] = "auto"
    """Whether a prompt is a user's message; auto: as trained, else if there is a chat template."""
    system: str | None = None
    """The system message where a chat has none; null: the one of the training; empty: none."""


@dataclass(frozen=True)
class OutputSettings:
    """Where predict and generate write."""

    file: str | None = None
    """A .jsonl, .json, .csv, .tsv or .parquet file, a pipe or a device; null: standard output."""

    def __post_init__(self) -> None:
        if self.file is not None:
            output_format(self.file)


@dataclass(frozen=True)
class InspectSettings:
    """What the inspect job shows."""

    samples: int = 3
    """How many samples of each set, the first ones."""
    max_tokens: int = 1024
    """Tokens of a sample that are printed, at most."""


@dataclass(frozen=True)
class Run:
    """Everything that a job needs, built and checked; nothing on disk has been touched yet."""

    job: str
    output_dir: Path
    run_name: str
    seed: int
    model: ModelSettings
    tokenizer: TokenizerSettings
    dataset: Any
    """A data source: an object with `load() -> Splits` (trainer/data/rows.py), or None."""
    recipe: Recipe | None
    """None until the model's folder, which names one in recipe.json, has been read."""
    trainer: TrainSettings
    metrics: Mapping[str, Any]
    callbacks: Mapping[str, Callback]
    launch: LaunchSettings
    input: InputSettings
    output: OutputSettings
    inspect: InspectSettings
    generation: GenerationSettings
    config: Mapping[str, Any]
    """The resolved config, secrets redacted: what config.yaml holds."""
    recipe_fields: Mapping[str, Any] = field(default_factory=dict)
    """What the user gave of the recipe, to go above what the model's folder says."""
    trusted_packages: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    """Config group -> the option taken ("dataset": "python_stdlib")."""
    overrides: tuple[str, ...] = ()
    """What the user typed, to be repeated in the commands that the run prints."""
    program: str = "python launch.py"
    """How the program was called, with --config-dir where one was given."""
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """What it was assembled from, secrets included, for processes that do their part of it."""

    def __post_init__(self) -> None:
        refuse_own_input(self.output.file, self.input.file)


def fitting_metrics(
    metrics: Mapping[str, Any], recipe: Recipe | None, chosen: Mapping[str, str]
) -> dict[str, Any]:
    """The metrics, less those of classes that nobody chose where the recipe measures itself."""
    if recipe is None or not recipe.measures or "metrics" in chosen:
        return dict(metrics)
    return {name: m for name, m in metrics.items() if getattr(m, "of_classes", None) is None}
