"""transformers' common tests, for its classes and for ours; `upstream_tests.py` runs this file."""

import os
import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
import transformers
from upstream.tests import test_modeling_common as modeling
from upstream.tests import test_tokenization_common as tokenization
from upstream.tests import test_tokenizers_backend_mixin as fast_tokenization
from upstream.tests import test_training_mixin as training

import tempering
from trainer.models.config import ModelConfig
from trainer.tokenizer import Tokenizer

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "vocab_size": 99,
    "max_position_embeddings": 64,
}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ENCODER = ("Model", "ForMaskedLM", "ForMultipleChoice", "ForQuestionAnswering") + (
    "ForSequenceClassification",
    "ForTokenClassification",
)
DECODER = ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
GROUPED: dict[str, Any] = {**SIZES, **TOKENS, "num_key_value_heads": 2}
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "Bert": (SIZES, ENCODER),
    "DistilBert": (
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 37, "vocab_size": 99}
        | {"max_position_embeddings": 64},
        ENCODER,
    ),
    "Roberta": ({**SIZES, "pad_token_id": 1, "type_vocab_size": 1}, ENCODER),
    "ModernBert": (
        {**SIZES, "pad_token_id": 0, "global_attn_every_n_layers": 2, "local_attention": 8}
        | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
        ENCODER,
    ),
    "Llama": (GROUPED, DECODER),
    "Mistral": ({**GROUPED, "sliding_window": 16}, DECODER),
    "Qwen2": (GROUPED, DECODER),
    "Qwen3": ({**GROUPED, "head_dim": 8}, DECODER),
    "GPT2": (
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 99, "n_positions": 64, **TOKENS},
        ("Model", "LMHeadModel", "ForSequenceClassification", "ForTokenClassification"),
    ),
}
"""Family -> its small config, and the endings of the names of its classes."""

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and a lazy fox sleeps.",
    "Encode this sequence of words, please; this one is a bit longer than that one.",
    "I was born in 92000, hi there, hello. This is a test of the tokenizer.",
] * 5


_set_epsilons = modeling.set_config_for_less_flaky_test


def set_known_epsilons(config: Any) -> None:
    """Set the epsilons that our config has. The original sets all names, which ours refuses."""
    if not isinstance(config, ModelConfig):
        _set_epsilons(config)
    else:
        for name in ("layer_norm_eps", "layer_norm_epsilon", "norm_eps", "rms_norm_eps"):
            if name in config.to_dict():
                setattr(config, name, 1.0)


modeling.set_config_for_less_flaky_test = set_known_epsilons
# some tests distinguish fast and slow tokenizers: ours counts as a fast one
tokenization.TokenizersBackend = tokenization.TokenizersBackend | Tokenizer


class SmallModel:
    """The object that `ModelTesterMixin` calls to get a config and inputs."""

    batch_size, seq_length, num_choices, num_labels = 3, 7, 3, 3
    is_training = True

    def __init__(self, package: Any, family: str) -> None:
        self._package, self._family = package, family
        self.__dict__.update(SIZES)

    def get_config(self) -> Any:
        entries, _ = FAMILIES[self._family]
        return getattr(self._package, f"{self._family}Config")(**entries)

    def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
        """The config and the inputs: token ids and mask [B, L], without pads."""
        ids = modeling.ids_tensor([self.batch_size, self.seq_length], SIZES["vocab_size"] - 3) + 3
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    prepare_config_and_inputs = prepare_config_and_inputs_for_common


def model_case(package: Any, family: str) -> type[unittest.TestCase]:
    """The test case of one family's classes in one package."""
    _, ends = FAMILIES[family]

    def set_up(self: Any) -> None:
        self.model_tester = SmallModel(package, family)

    found = {"all_model_classes": tuple(getattr(package, family + end) for end in ends)}
    bases = (modeling.ModelTesterMixin, training.TrainingTesterMixin, unittest.TestCase)
    return type(f"{family}_{package.__name__}", bases, {**found, "setUp": set_up})


def tokenizer_case(kind: str, ours: bool) -> type[unittest.TestCase]:
    """The test case of one kind of tokenizer; both packages read the same folder."""
    folder = Path(tempfile.gettempdir()) / f"upstream-{os.getpid()}-{kind}"
    if not folder.is_dir():
        special = ["<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>"] if kind == "gpt2" else []
        trained = Tokenizer.train(CORPUS, vocab_size=400, kind=kind, special_tokens=special)  # type: ignore[arg-type]
        if kind == "gpt2":
            trained.pad_token, trained.unk_token = "<pad>", "<unk>"
        trained.save_pretrained(folder)
    theirs = type(transformers.AutoTokenizer.from_pretrained(folder))
    shown = {
        "tokenizer_class": Tokenizer if ours else theirs,
        "rust_tokenizer_class": Tokenizer if ours else theirs,
        "from_pretrained_id": str(folder),
        "test_tokenizer_from_extractor": False,
    }
    mixins = (tokenization.TokenizerTesterMixin, fast_tokenization.TokenizersBackendTesterMixin)
    bases = (*mixins, unittest.TestCase)
    package = "tempering" if ours else "transformers"
    return type(f"{kind}_{package}", bases, shown)


for each in os.environ.get("UPSTREAM_FAMILIES", ",".join(FAMILIES)).split(","):
    for library in (transformers, tempering):
        if each in FAMILIES:
            case = model_case(library, each)
            globals()[case.__name__] = case
for each in os.environ.get("UPSTREAM_TOKENIZERS", "wordpiece,gpt2").split(","):
    for is_ours in (False, True):
        if each:
            case = tokenizer_case(each, is_ours)
            globals()[case.__name__] = case
del case
