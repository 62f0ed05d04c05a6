"""Multi-task models: several heads over one body, each for its own sequences of a batch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from torch import Tensor, nn

from trainer.errors import InputError, nearest
from trainer.models.body import Body, Encoded
from trainer.models.config import ModelConfig
from trainer.models.encoding import Encoding
from trainer.models.family import ResolvedHead, family_of, find_head
from trainer.models.formats.keys import HEAD_OF_TASK
from trainer.models.formats.loading import Drawn
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.packing import Layout, to_device
from trainer.models.pretrained import Given, PretrainedModel

ACCEPTED = "accepted: task_heads={name: {head: sequence_classification, config: {...}}}"
LABELS = ("id2label", "label2id", "num_labels", "problem_type", "task_heads", "architectures")
"""Entries of config.json that tasks do not inherit from the shared config."""


@dataclass
class MultiTaskOutput(ModelOutput):
    """The outputs of a multi-task model."""

    tasks: dict[str, Any] | None = None
    """Task -> the outputs of its head for its sequences; tasks without sequences are absent"""
    unused: Tensor | None = None
    """A scalar zero that depends on the parameters of tasks without sequences. Add it to the loss,
    so that each parameter has a gradient on every rank.
    """
    hidden_states: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""
    attentions: tuple[Tensor, ...] | None = None
    """As in `BaseModelOutput`"""


class Answers(Arguments, total=False):
    """The keyword arguments of `forward` that only this head reads."""

    sequence_tasks: Tensor | None
    """[B] on the CPU, the task of each sequence of a flat call, as an index into `task_names`"""


class MultiTaskModel(PretrainedModel):
    """A body, and one head per entry of `config.task_heads`: {name: {head: ..., config: {...}}}.

    The body encodes all sequences of a flat call together; each head then takes the sequences of
    its task. `part(name)` is an ordinary single-task model that shares the weights.
    """

    task = "multi_task"
    class_suffix = "ForMultiTask"
    kinds = ("encoder", "decoder")
    arguments = Answers
    labels = ()
    reads_first_token = True

    if TYPE_CHECKING:

        def __call__(
            self,
            input_ids: Tensor,
            attention_mask: Tensor | None = None,
            **arguments: Unpack[Answers],
        ) -> MultiTaskOutput: ...

    @staticmethod
    def check_config(config: ModelConfig) -> None:
        heads = config.task_heads
        good = isinstance(heads, Mapping) and all(
            isinstance(each, Mapping) and isinstance(each.get("head"), str)
            for each in heads.values()
        )
        if not heads or not good:
            raise InputError(f"model.config: task_heads: found {heads!r:.80}; {ACCEPTED}")
        for name, each in heads.items():
            _check_task(name, each.get("config"))
            own = _head_of(config, name)
            if own.build(part_config(config, name)) is None:
                found = f"{each['head']}, which has no layers"
                raise InputError(f"model.config: task_heads.{name}: found {found}")

    @staticmethod
    def build(config: ModelConfig) -> nn.Module:
        heads = nn.ModuleDict()
        for name, own in config.task_heads.items():
            module = _head_of(config, name).build(part_config(config, name))
            assert module is not None, "refused by check_config"
            if own["head"] not in heads:
                heads.add_module(own["head"], nn.ModuleDict())
            heads[own["head"]].add_module(HEAD_OF_TASK + name, module)
        return heads

    @property
    def family_head(self) -> ResolvedHead:
        pooler = any(_head_of(self.config, name).pooler for name in self.task_names)
        return replace(super().family_head, pooler=pooler)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, in the order of `config.task_heads`."""
        return tuple(self.config.task_heads)

    @property
    def output_parameters(self) -> tuple[str, ...]:
        known = dict(self.named_parameters())
        names = []
        for task in self.task_names:
            head = cast(type[PretrainedModel], find_head(self._kind(task)))
            place = f"head.{self._kind(task)}.{HEAD_OF_TASK}{task}"
            names += [f"{place}.{parameter}" for parameter in head.vocabulary]
        return tuple(name for name in names if name in known)

    def plain_name(self, name: str) -> str:
        parts = name.split(".", 3)  # head, its kind, its task, and the rest of the name
        return f"head.{parts[3]}" if parts[0] == "head" else name

    def part(self, name: str) -> PretrainedModel:
        """The ordinary model of one task, with shared parameters; `save_pretrained` exports it.

        Raises InputError for a task that the model does not have.
        """
        if name not in self.task_names:
            accepted = f"accepted: {', '.join(self.task_names)}{nearest(name, self.task_names)}"
            raise InputError(f"task: found '{name}'; {accepted}")
        model: PretrainedModel = object.__new__(cast(type, find_head(self._kind(name))))
        vars(model).update(vars(self))
        modules = {**self._modules, "head": self._head(name)}
        if self.body.pooler is not None and not _head_of(self.config, name).pooler:
            modules["body"] = _without_pooler(self.body)
        vars(model)["_modules"] = modules
        vars(model)["config"] = part_config(self.config, name)
        vars(model)["pending"] = None if self.pending is None else _WeightsOfWhole(self)
        return model

    def part_weights(self, name: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights that belong to `part(name)`, under the parameter names of that part."""
        head = f"head.{self._kind(name)}.{HEAD_OF_TASK}{name}."
        kept = {self.plain_name(n): w for n, w in weights.items() if n.startswith(("body.", head))}
        known = {n for n, _ in self.part(name).named_parameters()}
        return {n: weight for n, weight in kept.items() if n in known}

    def respond(self, encoding: Encoding, answers: Given) -> MultiTaskOutput:
        tasks = answers.get("sequence_tasks")
        if tasks is None:
            accepted = f"accepted: the task of each sequence, or model.part('{self.task_names[0]}')"
            raise InputError(f"sequence_tasks: nothing given; {accepted}")
        _check_sequence_tasks(tasks, encoding.layout.lengths, len(self.task_names))
        found_outputs = {}
        for number, name in enumerate(self.task_names):
            sequences = (tasks == number).nonzero().squeeze(1)
            if len(sequences):
                own = _select_sequences(encoding, sequences, self._pools_first_token(name))
                found_outputs[name] = self._cached_part(name).respond(own, {})
        unused = self._unused(encoding.encoded.pooled, found_outputs)
        return MultiTaskOutput(tasks=found_outputs, unused=unused, **encoding.traces)

    def _unused(self, pooled: Tensor, used: Mapping[str, Any]) -> Tensor:
        """A zero with gradients for the body and for the heads that are not in `used`."""
        zero = pooled.sum() * 0.0
        for name in self.task_names:
            if name not in used:
                for parameter in self._head(name).parameters():
                    zero = zero + parameter.sum() * 0.0
        return zero

    def _cached_part(self, name: str) -> PretrainedModel:
        """Return `part(name)`, created once; later changes of the config do not affect it."""
        known: dict[str, PretrainedModel] = vars(self).setdefault("_parts", {})
        if name not in known or known[name].head is not self._head(name):
            known[name] = self.part(name)
        return known[name]

    def _pools_first_token(self, name: str) -> bool:
        """Whether the task's head reads the first token although the body has a pooler."""
        return self.body.pooler is not None and not _head_of(self.config, name).pooler

    def _kind(self, name: str) -> str:
        kind: str = self.config.task_heads[name]["head"]
        return kind

    def _head(self, name: str) -> nn.Module:
        return self.head[self._kind(name)].get_submodule(HEAD_OF_TASK + name)  # type: ignore[no-any-return]


class _WeightsOfWhole:
    """Fills modules that a part shares with a multi-task model, by their names in that model.

    Random weights are drawn for the whole model at once, since they depend on the order of drawing.
    """

    def __init__(self, whole: MultiTaskModel) -> None:
        self._whole = whole

    def fill(self, model: object, part: nn.Module) -> None:
        drawn = isinstance(self._whole.pending, Drawn)
        self._whole.fill(self._whole if drawn else part)


def _check_task(name: object, config: object) -> None:
    """Raise InputError for a name that no module can have, or a config that is not a mapping."""
    where = "model.config: task_heads"
    if not isinstance(name, str) or not name or "." in name:
        raise InputError(f"{where}: found the name {name!r:.60}; accepted: names without dots")
    if config is not None and not isinstance(config, Mapping):
        found = f"found {type(config).__name__}"
        raise InputError(f"{where}.{name}.config: {found}; accepted: a mapping")


def _check_sequence_tasks(tasks: Tensor, lengths: Tensor, num_tasks: int) -> None:
    """Raise InputError unless `tasks` [B] are indices of tasks, on the CPU."""
    if tasks.device.type != "cpu" or tasks.shape != lengths.shape or tasks.is_floating_point():
        found = f"found {tasks.dtype} {tuple(tasks.shape)} on {tasks.device}"
        accepted = f"accepted: integers {tuple(lengths.shape)} on the CPU, in a flat call"
        raise InputError(f"sequence_tasks: {found}; {accepted}")
    outside = tasks[(tasks < 0) | (tasks >= num_tasks)]
    if len(outside):
        accepted = f"accepted: 0 to {num_tasks - 1}"
        raise InputError(f"sequence_tasks: found {int(outside[0])}; {accepted}")


def part_config(config: ModelConfig, name: str) -> ModelConfig:
    """The config of one task's ordinary model."""
    entries = {key: value for key, value in config.to_dict().items() if key not in LABELS}
    return ModelConfig(entries, config.task_heads[name].get("config") or {})


def _head_of(config: ModelConfig, name: str) -> ResolvedHead:
    """The family's head for a task. Raises InputError if the family has none."""
    kind = config.task_heads[name]["head"]
    find_head(kind)  # imports heads of installed packages
    family = family_of(config)
    heads = family.heads
    if kind not in heads or kind == MultiTaskModel.task:
        known = [each for each in heads if each not in ("base", MultiTaskModel.task)]
        where = f"model.config: task_heads.{name}: {family.name} has no head for {kind}"
        raise InputError(f"{where}; accepted: {', '.join(known)}")
    return heads[kind]


def _select_sequences(encoding: Encoding, sequences: Tensor, first_tokens: bool) -> Encoding:
    """The encoding of the sequences with these indices [b], which are on the CPU.

    With `first_tokens`, the sequences' first tokens replace the pooler's output.
    """
    layout, encoded, keys = encoding.layout, encoding.encoded, encoding.token_keys
    tokens, pooled = encoded.tokens, encoded.pooled
    if len(sequences) < layout.num_sequences:
        device = tokens.device
        rows = to_device(torch.cat(list(_rows(layout, sequences))), device)
        tokens, pooled = tokens.index_select(0, rows), pooled[to_device(sequences, device)]
        keys = None if keys is None else keys.index_select(0, rows)
        layout = Layout(layout.lengths[sequences], layout.device)
    if first_tokens:
        pooled = tokens[layout.first_tokens]
    return Encoding(Encoded(tokens, pooled, None, None), layout, keys)


def _rows(layout: Layout, sequences: Tensor) -> Iterator[Tensor]:
    """Yield the indices, in the flat batch, of the tokens of each given sequence."""
    ends = layout.lengths.cumsum(0)
    starts = (ends - layout.lengths)[sequences].tolist()
    for start, end in zip(starts, ends[sequences].tolist(), strict=True):
        yield torch.arange(start, end)


def _without_pooler(body: Body) -> Body:
    """The same body without the pooler, for heads that do not use it."""
    found: Body = object.__new__(type(body))
    vars(found).update(vars(body))
    vars(found)["_modules"] = {**body._modules, "pooler": None}
    return found


HEAD = MultiTaskModel
