"""Converts tensor names in TensorFlow's h5 files to and from the names on the hub."""

import re
from collections.abc import Collection

from torch import nn

LEAVES = {"kernel": "weight", "gamma": "weight", "embeddings": "weight", "beta": "bias"}
"""Name of a variable in Keras -> name in torch, if they differ."""

SCOPES = {"cls": "mlm___cls"}
"""Top-level module on the hub -> transformers' Keras layer that contains the module."""


def hub_name(path: str, layers: Collection[str] = ()) -> str:
    """The hub's name for a variable such as tf_bert_model/bert/pooler/dense/kernel:0.

    If the first part of the path is not in the top-level `layers`, it is the model's name and is
    dropped. A part x___y becomes y, the module's name; a part x_._3 becomes x.3, where 3 is the
    layer's index.
    """
    *modules, leaf = path.split(":")[0].split("/")
    if layers and modules and modules[0] not in layers:
        modules = modules[1:]
    names = [module.rpartition("___")[2].replace("_._", ".") for module in modules]
    return ".".join([*names, LEAVES.get(leaf, leaf)])


def is_transposed(path: str) -> bool:
    """Whether a variable is stored as [in, out], the transpose of the hub's [out, in]."""
    return path.split(":")[0].endswith("/kernel")


def keras_path(hub_name: str, module: nn.Module) -> str:
    """The path of the variable for the tensor `hub_name` of `module`, without the model's name.

    An example is bert/encoder/layer_._0/attention/self/query/kernel:0.
    """
    path = re.sub(r"/(\d+)/", r"_._\1/", hub_name.replace(".", "/"))
    modules, _, leaf = path.rpartition("/")
    _, slash, rest = modules.partition("/")
    return f"{top_layer(hub_name)}{slash}{rest}/{_leaf(leaf, modules, module)}:0"


def top_layer(hub_name: str) -> str:
    """The top-level Keras layer that contains a tensor or a module."""
    top = hub_name.partition(".")[0]
    return SCOPES.get(top, top)


def model_name(architecture: str) -> str:
    """The Keras name of a model of an architecture, as in transformers.

    For example, the name for BertForMaskedLM is tf_bert_for_masked_lm.
    """
    spaced = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", f"TF{architecture}")
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


def _leaf(leaf: str, modules: str, module: nn.Module) -> str:
    if isinstance(module, nn.Linear) and leaf == "weight":
        return "kernel"
    if isinstance(module, nn.LayerNorm):
        return {"weight": "gamma", "bias": "beta"}[leaf]
    if isinstance(module, nn.Embedding) and not modules.endswith("word_embeddings"):
        return "embeddings"  # only word embeddings, which are shared, keep the name "weight"
    return leaf
