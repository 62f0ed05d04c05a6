"""Run: a checked config as typed values, the argument of every job."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from trainer.callbacks.callback import Callback
from trainer.data.output_format import output_format, refuse_own_input
from trainer.devices.options import DeviceOptions, check_timeout
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.hub import is_remote
from trainer.metrics.named import metrics_of
from trainer.metrics.score import SHAPES, Score
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.formats.rope_request import check_request
from trainer.option_types import Options
from trainer.pushing.push_settings import PushSettings
from trainer.runs.prepare_settings import PrepareSettings, PruneSettings
from trainer.runs.serve_settings import ServeSettings
from trainer.runs.sweep_settings import SweepSettings
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe
from trainer.tasks.setting_checks import check_sharding

COMMIT = re.compile("[0-9a-f]{40}")
"""A full commit hash. Unlike a branch or a tag, it always refers to the same files."""


@dataclass(frozen=True)
class ModelSettings(Options, where="model"):
    """The weights to start from, and changes to them."""

    path: str | None = "???"
    """A folder, a .gguf file, a hub id, pkg://package/folder, or the URL of a folder in an object
    store (s3://, gs://); null: read no files, which needs from_scratch."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    sha256: str | None = None
    """The SHA-256 that model.safetensors must have; null: do not check it."""
    backend: Literal["auto", "native", "transformers"] = "auto"
    """The code that computes the model: native (this package) or transformers (three heads, padded,
    see docs/models.md); auto: native if this package implements the model_type."""
    trust_remote_code: bool = False
    """Run the code in the model's folder (auto_map) if neither this package nor transformers
    implements the model_type. Only accepted on the command line, and with a commit of 40 hex digits
    as revision or a local folder as path.
    """
    config: dict[str, Any] = field(default_factory=dict)
    """Entries that replace those of config.json."""
    rope_scaling: dict[str, Any] = field(default_factory=dict)
    """How to scale rotary positions for longer texts, as in transformers: rope_type (linear,
    dynamic, yarn, llama3, longrope; default: no scaling) and its parameters; {}: use those of
    config.json."""
    from_scratch: bool = False
    """Start with random weights; only config.json is read, or with path=null only model.config."""
    new_head: bool = False
    """Replace a head that was trained for other labels."""
    quantization: Literal["int8", "int4", "nf4"] | None = None
    """Pack the frozen weights of the body's linear layers in 8 or 4 bits, to train adapters on top
    (QLoRA): int8 and int4 by torchao, nf4 by bitsandbytes; null: keep them as in model.path."""
    freeze: list[str] = field(default_factory=list)
    """Name patterns of parameters that are not trained: *, ? and number ranges such as [0-11]."""
    lora: LoRASettings = field(default_factory=LoRASettings)
    """Adapters to train instead of the weights: rank, alpha, dropout, targets, merge."""

    def __post_init__(self) -> None:
        check_request(self.rope_scaling)
        pinned = self.revision is not None and COMMIT.fullmatch(self.revision)
        if self.trust_remote_code and not pinned and (self.path is None or is_remote(self.path)):
            found = f"found true with model.path={self.path}, model.revision={self.revision}"
            accepted = "accepted: a commit of 40 hex digits as model.revision, or a local folder"
            raise InputError(f"model.trust_remote_code: {found}; {accepted}")


@dataclass(frozen=True)
class TokenizerSettings(Options, where="tokenizer"):
    """The tokenizer to use."""

    path: str | None = None
    """A path in the same forms as model.path; null: use the model's tokenizer."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    train: bool = False
    """Train a new tokenizer on the training rows, of the same kind as path or, if path is null, of
    the kind that `kind` names.
    """
    kind: Literal["wordpiece", "bpe", "unigram", "gpt2"] = "gpt2"
    """The kind of tokenizer to train if path is null; gpt2 (byte-level BPE) is for decoders."""
    vocab_size: int = 16384
    """The maximum number of tokens in a trained tokenizer."""


@dataclass(frozen=True)
class LaunchSettings(Options, where="launch"):
    """How many processes to start, and on which machines."""

    num_processes: int | str = "auto"
    """Number of processes on this machine; auto: one for each GPU, or one without GPUs."""
    num_nodes: int = 1
    """Number of machines; run the same command on each, with a different node_rank."""
    node_rank: int = 0
    """The index of this machine, from 0."""
    rendezvous: str | None = None
    """HOST:PORT on the machine with node_rank 0, through which the machines connect."""
    timeout: float = 600.0
    """Seconds that a process waits for another to start, to join a collective, or to send a
    heartbeat."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: each process holds the whole model; fsdp: each holds a share; auto: ddp if it fits."""
    cpu_offload: bool = False
    """With fsdp: keep weights, gradients, optimizer state and moving average in host memory."""
    context_parallel: int = 1
    """Number of processes that share the tokens of each text of a decoder, for long contexts."""
    tensor_parallel: int = 1
    """Number of processes (a group) that split each layer of a decoder; with fsdp, the groups shard
    the model among them.
    """
    reduce_gradients: Literal["auto", "step", "micro_batch"] = "auto"
    """With fsdp: reduce gradients over devices once per step, or after every micro batch, which
    needs less memory and more time; auto: once per step if all gradients fit in a tenth of
    memory."""

    def __post_init__(self) -> None:
        processes = self.num_processes
        if processes != "auto" and (isinstance(processes, str) or processes < 1):
            raise InputError(f"launch.num_processes: found {processes}; accepted: auto, 1 or more")
        if self.num_nodes < 1:
            raise InputError(f"launch.num_nodes: found {self.num_nodes}; accepted: 1 or more")
        if not 0 <= self.node_rank < self.num_nodes:
            accepted = f"accepted: 0 to {self.num_nodes - 1}, below launch.num_nodes"
            raise InputError(f"launch.node_rank: found {self.node_rank}; {accepted}")
        for name in ("context_parallel", "tensor_parallel"):
            if (number := getattr(self, name)) < 1:
                raise InputError(f"launch.{name}: found {number}; accepted: 1 or more")
        check_timeout("launch.timeout", self.timeout)
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
    def device_options(self) -> DeviceOptions:
        """The options for the Trainer. `timeout` is left out: the process group already has it."""
        return DeviceOptions(
            None,
            self.strategy,
            self.cpu_offload,
            self.reduce_gradients,
            self.context_parallel,
            self.tensor_parallel,
        )

    @property
    def meeting_point(self) -> tuple[str, int]:
        """Host and port of the rendezvous."""
        host, _, port = (self.rendezvous or "").rpartition(":")
        is_port = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 2**16
        if not is_host(host) or not is_port:
            found = f"found '{self.rendezvous}'"
            raise InputError(f"launch.rendezvous: {found}; accepted: HOST:PORT, port 1 to 65535")
        return host.strip("[]"), int(port)


def is_host(text: str) -> bool:
    """Whether a text can be the name or the address of a host."""
    try:
        return bool(text.encode("idna"))
    except UnicodeError:  # "a..b", or a part of more than 63 characters
        return False


@dataclass(frozen=True)
class InputSettings(Options, where="input"):
    """The inputs of predict, generate and chat other than a data set."""

    text: str | None = None
    """The text to predict for, verbatim; a JSON list of several texts; or - for standard input."""
    text_pair: str | None = None
    """The second text of a pair, in the same forms as the first."""
    prompt: str | None = None
    """The prompt to continue, verbatim; a JSON list of several prompts; or - for standard input."""
    file: str | list[str] | None = None
    """Rows: a file, folder, glob or URL (jsonl, csv, tsv, parquet, ...), or a list of them."""
    corpus: str | None = None
    """A file of rows to search; predict then answers with the nearest rows instead of vectors."""
    neighbors: int = 5
    """The number of nearest rows of the corpus in an answer."""
    chat: bool | Literal["auto"] = "auto"
    """Whether a prompt is a user's message; auto: use the setting that the model was trained with,
    or if there is none, true for a tokenizer with a chat template."""
    system: str | None = None
    """The system message for chats that have none; null: use the one that the model was
    trained with; empty: use none."""


@dataclass(frozen=True)
class OutputSettings(Options, where="output"):
    """The outputs of predict, generate, merge and export."""

    file: str | None = None
    """A .jsonl, .json, .csv, .tsv, .parquet or .npy file, its URL in an object store, a pipe or a
    device; null: standard output."""
    json: bool = False
    """Print JSON lines on a terminal too; without it, a terminal shows readable lines."""
    path: str | None = None
    """The folder that merge or export writes, or its URL in an object store."""

    def __post_init__(self) -> None:
        if self.file is not None:
            output_format(self.file)


EXPORT_DTYPES = {
    "onnx": ("fp32", "fp16"),
    "torch": ("fp32", "bf16", "fp16"),
    "merged": ("fp32", "bf16", "fp16"),
    "safetensors": ("fp32", "bf16", "fp16"),
    "gguf": ("fp32", "bf16", "fp16", "q8_0", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k"),
}
"""The accepted dtypes of the weights for each export format."""
DTYPE_NAMES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "f32": "fp32"}
DTYPE_NAMES |= {"f16": "fp16"}
"""Alias of a dtype -> its name in EXPORT_DTYPES."""


@dataclass(frozen=True)
class ExportSettings(Options, where="export"):
    """The format and the dtype that the export job writes."""

    format: Literal["onnx", "gguf", "torch", "merged", "safetensors"] | None = None
    """onnx, gguf (llama.cpp), torch (a .pt2 program), merged (adapters merged into their base), or
    safetensors (the same folder in another dtype)."""
    dtype: str | None = None
    """The dtype of the weights: fp32, bf16, fp16; for gguf also q8_0, q4_k_m and others; null: fp32
    for onnx and torch, fp16 for gguf, and the dtype of the base's files for merged; safetensors
    needs a dtype."""

    def __post_init__(self) -> None:
        if self.format is None or self.dtype is None:
            return
        accepted = EXPORT_DTYPES[self.format]
        if self.numbers not in accepted:
            found = f"found {self.dtype} with format={self.format}"
            raise InputError(f"dtype: {found}; accepted: {', '.join(accepted)}")

    @property
    def numbers(self) -> str | None:
        """The name that `EXPORT_DTYPES` uses for `dtype`; None if `dtype` is None."""
        name = None if self.dtype is None else self.dtype.lower()
        return None if name is None else DTYPE_NAMES.get(name, name)


@dataclass(frozen=True)
class InspectSettings(Options, where="inspect"):
    """The amount of data that the inspect job prints."""

    samples: int = 3
    """The number of samples to print from each set."""
    max_tokens: int = 1024
    """The maximum number of tokens to print from each sample."""


@dataclass(frozen=True)
class PlanSettings(Options, where="plan"):
    """The size of the micro batch for which the plan job estimates the memory of activations."""

    tokens: int = 4096
    """Tokens in the micro batch; trainer.max_tokens_per_micro_batch takes precedence."""
    length: int | None = None
    """Tokens in each sequence of the micro batch; null: the model's maximum, but at most 4096."""

    def __post_init__(self) -> None:
        for name in ("tokens", "length"):
            found = getattr(self, name)
            if found is not None and found < 1:
                raise InputError(f"plan.{name}: found {found}; accepted: 1 or more")


@dataclass(frozen=True)
class Run:
    """Everything that a job needs, built and checked. Nothing has been written to disk yet."""

    job: str
    output_dir: Path
    """The run's folder; for a run in a store, the working copy on this machine."""
    run_name: str
    seed: int
    model: ModelSettings
    tokenizer: TokenizerSettings
    dataset: Any
    """A data source: an object with `load() -> Splits` (trainer/data/rows.py), or None."""
    recipe: Recipe | None
    """The recipe; None until recipe.json in the model's folder has been read."""
    trainer: TrainSettings
    metrics: Mapping[str, Any]
    callbacks: Mapping[str, Callback]
    launch: LaunchSettings
    input: InputSettings
    output: OutputSettings
    inspect: InspectSettings
    plan: PlanSettings
    export: ExportSettings
    generation: GenerationSettings
    serve: ServeSettings
    prepare: PrepareSettings
    prune: PruneSettings
    push: PushSettings
    sweep: SweepSettings
    config: Mapping[str, Any]
    """The resolved config without secrets, as in config.yaml."""
    recipe_fields: Mapping[str, Any] = field(default_factory=dict)
    """The recipe fields that the user gave, which override those in the model's folder."""
    trusted_packages: tuple[str, ...] = ()
    chosen: Mapping[str, str] = field(default_factory=dict)
    """The chosen option of each config group, such as {"dataset": "python_stdlib"}."""
    overrides: tuple[str, ...] = ()
    """The overrides that the user typed, to be repeated in the commands that the run prints."""
    runs: tuple[str, ...] = ()
    """The folders or URLs of runs that the report job reads."""
    shown_run: str | None = None
    """The folder or URL of the run that the show job plots or the push job sends."""
    output_url: str | None = None
    """The URL of output_dir if it is in a store."""
    program: str = "python launch.py"
    """The command that started the program, including --config-dir if it was given."""
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """The config from which this object was built, with secrets, for the run's other processes."""

    @property
    def place(self) -> str:
        """The run's folder as the user names it: a path or a URL."""
        return self.output_url or str(self.output_dir)

    def __post_init__(self) -> None:
        refuse_own_input(self.output.file, self.input.file)
        if self.job == "train" and getattr(self.dataset, "streaming", False):
            self.trainer.total_steps(None)  # raises InputError without trainer.max_steps
        writes_folder = self.job in ("merge", "export")
        name = "file" if writes_folder else "path"
        if getattr(self.output, name) is not None:
            accepted = "output.path" if writes_folder else "output.file"
            raise InputError(
                f"output.{name}: job={self.job} does not write it; accepted: {accepted}"
            )
        if self.launch.strategy == "fsdp" and self.job in ("train", "evaluate"):
            check_sharding(self.recipe, trains=self.job == "train")


def fitting_metrics(
    metrics: Mapping[str, Any], recipe: Recipe | None, chosen: Mapping[str, str]
) -> dict[str, Any]:
    """The metrics to compute: the recipe's usual ones instead of the default scores (accuracy, F1).

    The default scores stay if the recipe names no metrics and they can score its predictions.
    Metrics that the user chose stay; the Trainer refuses those that do not suit the recipe.
    """
    if recipe is None or "metrics" in chosen:
        return dict(metrics)
    if recipe.compares in SHAPES and not recipe.usual_metrics:
        return dict(metrics)
    kept = {name: metric for name, metric in metrics.items() if not isinstance(metric, Score)}
    return metrics_of(recipe.usual_metrics) | kept
