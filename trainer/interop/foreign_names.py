"""ForeignNames: gives the parameters of a transformers model their names on the hub."""

from collections.abc import Mapping

from torch import Tensor, nn

from trainer.errors import InputError
from trainer.interop.foreign_layers import ForeignLayers
from trainer.interop.foreign_types import ForeignModule
from trainer.models.adapters.token_rows import token_matrix
from trainer.models.model import Model

INNER = "inner."
"""The prefix of parameter names in this package; the rest of a name is the hub's name."""
PEFT_TASKS = {
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "causal_lm": "CAUSAL_LM",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
}


def body_prefix(inner: ForeignModule) -> str:
    """The name of the body in `inner`; empty if the body is not a submodule of its own."""
    return "" if inner.base_model is inner else str(inner.base_model_prefix)


def is_of_body(inner: ForeignModule, name: str) -> bool:
    """Whether a parameter of `inner` belongs to the body. In T5, all except `lm_head` do."""
    if prefix := body_prefix(inner):
        return name.startswith(f"{prefix}.")
    head = inner.get_output_embeddings()
    return not any(module is head and name.startswith(f"{path}.")
                   for path, module in inner.named_modules())  # fmt: skip


class ForeignNames(Model):
    """The part of `Model` that names the parameters of `inner`, a transformers model."""

    inner: ForeignModule
    body: ForeignLayers

    @property
    def architecture(self) -> str:
        return type(self.inner).__name__

    @property
    def prefix(self) -> str:
        return body_prefix(self.inner)

    def hub_name(self, parameter_name: str) -> str:
        return parameter_name.removeprefix(INNER)

    def short_name(self, parameter_name: str) -> str:
        prefix = self.prefix
        return self.hub_name(parameter_name).removeprefix(f"{prefix}." if prefix else "")

    def in_body(self, parameter_name: str) -> bool:
        hub_name = self.hub_name(parameter_name)
        return hub_name != parameter_name and is_of_body(self.inner, hub_name)

    @property
    def layer_prefixes(self) -> tuple[str, ...]:
        return tuple(f"{INNER}{name}." for name, _ in self.body.units)

    @property
    def embeddings_name(self) -> str:
        embed = self.body.embed
        return self.short_name(next(n for n, m in self.named_modules() if m is embed))

    @property
    def output_parameters(self) -> tuple[str, ...]:
        head = self._output_layer
        if head is None or head.weight is self.get_input_embeddings().weight:
            return ()
        own = {id(parameter) for parameter in head.parameters(recurse=False)}
        return tuple(name for name, p in self.named_parameters() if id(p) in own)

    @property
    def known_ties(self) -> Mapping[str, str]:
        head = self._output_layer
        if head is None:
            return {}
        name = next(name for name, module in self.named_modules() if module is head)
        return {f"{self.short_name(name)}.weight": f"{self.embeddings_name}.weight"}

    @property
    def tied(self) -> Mapping[str, str]:
        first: dict[int, str] = {}
        pairs = {}
        for name, parameter in self.named_parameters(remove_duplicate=False):
            short = self.short_name(name)
            if (before := first.setdefault(id(parameter), short)) != short:
                pairs[short] = before
        return pairs

    def get_input_embeddings(self) -> nn.Embedding:
        found = self.inner.get_input_embeddings()
        if not isinstance(found, nn.Embedding):
            problem = f"its inputs are read by {type(found).__name__}"
            raise InputError(f"{self.architecture}: {problem}; accepted: token embeddings")
        return found

    @property
    def output_weight(self) -> Tensor:
        """The output weights [vocab_size, D] of a language model."""
        head, embeddings = self._output_layer, self.get_input_embeddings()
        assert head is not None, "only language models have output weights"
        return token_matrix(embeddings if head.weight is embeddings.weight else head)

    @property
    def _output_layer(self) -> ForeignModule:
        return self.inner.get_output_embeddings() if self.vocabulary else None
