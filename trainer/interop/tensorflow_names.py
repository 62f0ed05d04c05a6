"""Names of tensors in TensorFlow's h5 files: theirs <-> the hub's, by rule."""

import re
from collections.abc import Collection

from torch import nn

LEAVES = {"kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias"}
"""What Keras calls a layer's variables -> what torch does; other names are the same."""

SCOPES = {"cls": "mlm___cls"}
"""A module at the top of the hub's names -> the Keras layer that transformers put it in."""


def hub_name(path: str, layers: Collection[str] = ()) -> str:
    """The hub's name of a variable, such as tf_bert_model/bert/pooler/dense/kernel:0.

    A first part that is none of the model's top `layers` is the model's own name, which is left
    out. The last part of x___y is the module's name, and _._ precedes the number of a layer.
    """
    *modules, leaf = path.split(":")[0].split("/")
    if layers and modules and modules[0] not in layers:
        modules = modules[1:]
    names = [module.rpartition("___")[2].replace("_._", ".") for module in modules]
    return ".".join([*names, LEAVES.get(leaf, leaf)])


def is_transposed(path: str) -> bool:
    """Whether a variable is the transpose of the hub's tensor: [in, out] for [out, in]."""
    return path.split(":")[0].endswith("/kernel")


def keras_path(hub_name: str, module: nn.Module) -> str:
    """The variable's path below the model's name for the hub's `hub_name` of a tensor of `module`.

    Such as bert/encoder/layer_._0/attention/self/query/kernel:0.
    """
    path = re.sub(r"/(\d+)/", r"_._\1/", hub_name.replace(".", "/"))
    modules, _, leaf = path.rpartition("/")
    _, slash, rest = modules.partition("/")
    return f"{top_layer(hub_name)}{slash}{rest}/{_leaf(leaf, modules, module)}:0"


def top_layer(hub_name: str) -> str:
    """The Keras layer, at the top of the model, that a tensor or a module is in."""
    top = hub_name.partition(".")[0]
    return SCOPES.get(top, top)


def model_name(architecture: str) -> str:
    """What Keras names a model of transformers' TensorFlow class for an architecture.

    BertForMaskedLM -> tf_bert_for_masked_lm
    """
    spaced = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", f"TF{architecture}")
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


def _leaf(leaf: str, modules: str, module: nn.Module) -> str:
    if isinstance(module, nn.Linear) and leaf == "weight":
        return "kernel"
    if isinstance(module, nn.LayerNorm):
        return {"weight": "gamma", "bias": "beta"}[leaf]
    if isinstance(module, nn.Embedding) and not modules.endswith("word_embeddings"):
        return "embeddings"  # transformers shares the words' variable and names it itself
    return leaf
