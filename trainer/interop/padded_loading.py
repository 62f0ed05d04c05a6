"""Loads and checks models that transformers implements and this package does not."""

import importlib.util
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from trainer.errors import InputError, nearest
from trainer.interop.foreign_names import INNER, is_of_body
from trainer.interop.foreign_types import ForeignConfig, ForeignModule
from trainer.interop.own_code import check_code_files, has_own_head, runs_own_code
from trainer.interop.padded_model import AUTO_CLASSES, WRITERS, PaddedModel
from trainer.interop.padded_seq2seq import PaddedSeq2Seq
from trainer.interop.self_saving import quiet
from trainer.interop.seq2seq_seams import distinct_ids
from trainer.interop.shared_embeddings import check_adapter
from trainer.models.adapters.adapter_files import SavedAdapter, read_adapter
from trainer.models.config import read_config, saved_labels
from trainer.models.family_config import native_families
from trainer.models.formats.generation_config import read_generation_config
from trainer.models.formats.loading import REPLACE_HEAD
from trainer.models.sequence_lengths import SequenceLengths

log = logging.getLogger("trainer")
Loaded = TypeVar("Loaded")
LABELS = ("id2label", "label2id", "problem_type")
OWN_CODE = (
    "model.trust_remote_code=true, which runs the model's own code (auto_map), if you trust its "
    "author"
)
PADDED = "with padded batches: pads take time, and do not affect the loss"
PACKED = "with batches that are padded, or packed if that costs less"
EXTRA = 'pip install "tempering[transformers]"'


def foreign_config(
    folder: Path, overrides: Mapping[str, Any], trusts_code: bool = False
) -> ForeignConfig:
    """Read a folder's config with transformers.

    Code in the folder runs only if `trusts_code` is true and transformers lacks the model type.
    Raises InputError for a model type that neither transformers nor such code defines.
    """
    entries, file = read_config(folder), folder / "config.json"
    kind = str(entries.get("model_type"))
    if not _is_installed():
        raise InputError(f"{file}: model_type: '{kind}' needs transformers; accepted: {EXTRA}")
    import transformers

    own_code = kind not in transformers.CONFIG_MAPPING and trusts_code
    if own_code:
        check_code_files(file, entries)
    elif kind not in transformers.CONFIG_MAPPING:
        advice = f", or {OWN_CODE}" if "auto_map" in entries else ""
        names = [*native_families(), *transformers.CONFIG_MAPPING]
        raise InputError(
            f"{file}: model_type: found {kind!r:.60}; accepted: {', '.join(native_families())}, or "
            f"one of transformers {transformers.__version__}{nearest(kind, names)}{advice}"
        )
    elif trusts_code:
        text = "%s: the code in the folder is not run, because transformers has '%s'"
        log.warning(text, folder, kind)
    if entries.get("quantization_config"):
        raise InputError(f"{file}: quantization_config: found one; accepted: weights as floats")
    cls = type(_config_of(folder, own_code)) if own_code else transformers.CONFIG_MAPPING[kind]
    _check_entries(entries, overrides, cls)
    return _config_of(folder, own_code, overrides)


def _config_of(
    folder: Path, own_code: bool, overrides: Mapping[str, Any] = MappingProxyType({})
) -> ForeignConfig:
    from transformers import AutoConfig

    options = {**_options(own_code), **overrides}
    return _with_short_errors(folder, lambda: AutoConfig.from_pretrained(str(folder), **options))


def _is_installed() -> bool:
    return importlib.util.find_spec("transformers") is not None


def load_padded(
    folder: Path,
    task: str,
    overrides: Mapping[str, Any],
    new_head: bool = False,
    trusts_code: bool = False,
) -> PaddedModel:
    """Load a model from a folder of safetensors, with the head of a task, in fp32 and eval mode.

    Parameters of the head that the files lack are drawn from torch's global generator. Raises
    InputError for invalid files, and for a model whose outputs this package cannot use.
    """
    if task not in AUTO_CLASSES:
        accepted = ", ".join(AUTO_CLASSES)
        raise InputError(
            f"recipe: found the head {task}; accepted with model.backend=transformers: {accepted}"
        )
    adapter = read_adapter(folder)
    if adapter is not None and trusts_code:  # its config may name a base model with any code
        accepted = "accepted with model.trust_remote_code: a model's own folder (model.lora.merge)"
        raise InputError(f"{folder}: found an adapter; {accepted}")
    base = folder if adapter is None else adapter.base_folder()
    config = foreign_config(base, {**_labels_of(adapter, base), **overrides}, trusts_code)
    _check_head(base, config, task)
    inner, info = _read(base, config, task)
    _check_base(base, inner)
    fresh = _fresh_names(base, inner, info)
    if new_head:
        fresh |= _draw_head(inner)
    elif task not in WRITERS and adapter is None:
        _check_labels(base, inner, info, fresh)
    _check_finite(base, inner)
    model = _model_of(base, inner, task)
    model.fresh = sorted({f"{INNER}{name}".rpartition(".")[0] for name in fresh})
    model.set_source(folder, None, base)
    model.generation_config = read_generation_config(base)
    check = _check_pads if isinstance(model, PaddedSeq2Seq) else _check_outputs
    _with_short_errors(base, lambda: check(base, model.eval()))
    if adapter is not None:
        check_adapter(model, adapter)
        adapter.load_into(model, without_head=new_head)
        model.eval()
    batches = PACKED if model.packs else PADDED
    log.warning("%s: %s runs in transformers, %s", folder, type(inner).__name__, batches)
    return model


def _model_of(folder: Path, inner: ForeignModule, task: str) -> PaddedModel:
    """Wrap a transformers model in this package's class."""
    if task != "seq2seq_lm":
        return _with_short_errors(folder, lambda: PaddedModel(inner, task))
    try:
        return _with_short_errors(folder, lambda: PaddedSeq2Seq(inner.eval()))
    except InputError as error:
        named = error.args[0].startswith(str(folder))
        raise error if named else InputError(f"{folder}: {error}") from None


def _check_base(folder: Path, inner: ForeignModule) -> None:
    """Refuse a class that does not name its body, since everything outside the body is the head.

    An encoder-decoder needs no such name, since its head is its output layer.
    """
    if inner.config.is_encoder_decoder:
        return
    if not inner.base_model_prefix or inner.base_model is inner:
        raise InputError(
            f"{folder}: {type(inner).__name__} names no base model; accepted: a class with "
            "base_model_prefix"
        )


def saved_dtype(folder: Path) -> torch.dtype:
    """The dtype that config.json gives for the weights; fp32 if it gives none."""
    entries = read_config(folder)
    name = entries.get("dtype") or entries.get("torch_dtype") or "float32"
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        accepted = "accepted: float32, bfloat16, float16"
        raise InputError(f"{folder / 'config.json'}: dtype: found {name!r:.40}; {accepted}")
    return found


def _read(folder: Path, config: ForeignConfig, task: str) -> tuple[ForeignModule, dict[str, Any]]:
    """Read a model with transformers; returns the model, and transformers' loading report."""
    import transformers

    auto = getattr(transformers, AUTO_CLASSES[task])
    found: tuple[Any, dict[str, Any]] = _with_short_errors(
        folder,
        lambda: auto.from_pretrained(
            str(folder),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_options(runs_own_code(config)),
        ),
    )
    return found


def _labels_of(adapter: SavedAdapter | None, home: Path) -> dict[str, Any]:
    """The label entries that an adapter was trained with; {} without an adapter.

    They are from the config in the adapter's folder or, if there is none, from the base's config.
    """
    if adapter is None:
        return {}
    entries = read_config(adapter.described(home))
    return {name: entries[name] for name in LABELS if entries.get(name) is not None}


def _options(own_code: bool) -> dict[str, Any]:
    return {"trust_remote_code": own_code, "local_files_only": True}


def _with_short_errors(folder: Path, load: Callable[[], Loaded]) -> Loaded:
    """Call `load` and return its result; its errors become one-line InputErrors."""
    try:
        with quiet():  # this module itself checks everything that transformers would log
            return load()
    except InputError:
        raise
    except Exception as error:  # transformers, safetensors and the system raise many kinds
        found = " ".join(str(error).split())[:200]
        raise InputError(f"{folder}: transformers cannot load it: {found}") from None


def _check_entries(
    entries: Mapping[str, Any], overrides: Mapping[str, Any], kind: ForeignConfig
) -> None:
    """Refuse overrides of entries that this config lacks, because transformers ignores them."""
    known = {*kind().to_dict(), *kind.attribute_map, *entries, "num_labels", "label2id", "id2label"}
    for name in overrides:
        if name not in known or name in ("model_type", "auto_map"):
            raise InputError(
                f"model.config: found the entry '{name}', which a config of model_type "
                f"{kind.model_type!r} does not have"
            )


def _check_head(folder: Path, config: ForeignConfig, task: str) -> None:
    """Refuse a config whose model lacks a head for this task, or does not work with padding."""
    import transformers

    auto = getattr(transformers, AUTO_CLASSES[task])
    if not (type(config) in auto._model_mapping or has_own_head(config, task)):
        found = f"found {config.model_type}, for which transformers has no {AUTO_CLASSES[task]}"
        raise InputError(f"{folder / 'config.json'}: model_type: {found}")
    if config.is_encoder_decoder and task != "seq2seq_lm":
        found = f"{config.model_type} is an encoder-decoder"
        raise InputError(f"{folder}: {found}; accepted by model.backend=transformers: "
                         "recipe=seq2seq, or other models")  # fmt: skip
    if task == "causal_lm" and getattr(config.get_text_config(), "output_router_logits", False):
        accepted = "accepted with model.backend=transformers: false"
        raise InputError(f"{folder}: output_router_logits: found true; {accepted}")
    _check_attention(folder, config)
    decoders = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    encoders = transformers.MODEL_FOR_MASKED_LM_MAPPING
    pools_last = type(config) in decoders and type(config) not in encoders
    pad = getattr(config, "pad_token_id", None)
    if task == "sequence_classification" and pools_last and pad is None:
        accepted = "the id of a token that does not end texts (model.config.pad_token_id)"
        raise InputError(
            f"{folder / 'config.json'}: pad_token_id: found None; accepted: {accepted}"
        )


def _check_attention(folder: Path, config: ForeignConfig) -> None:
    """Refuse BigBird's sparse attention, which the first short batch switches off for good."""
    if getattr(config, "attention_type", None) == "block_sparse":
        found = f"found block_sparse, which {config.model_type} disables after a short batch"
        accepted = "accepted: original_full (model.config.attention_type)"
        raise InputError(f"{folder / 'config.json'}: attention_type: {found}; {accepted}")


def _fresh_names(folder: Path, inner: ForeignModule, info: Mapping[str, Any]) -> set[str]:
    """The names of the head's parameters that the files lack.

    A pooler may be missing too, since masked language models have none. Raises InputError if any
    other parameter is missing.
    """
    mismatched = {entry[0] if isinstance(entry, tuple) else entry for entry in
                  info["mismatched_keys"]}  # fmt: skip
    missing = set(info["missing_keys"]) | mismatched
    in_body = sorted(n for n in missing if is_of_body(inner, n) and "pooler" not in n)
    if in_body:
        problem = "is not shaped as the config specifies" if in_body[0] in mismatched else (
            "is missing in the weights")  # fmt: skip
        more = f" (and {len(in_body) - 1} more)" if len(in_body) > 1 else ""
        raise InputError(f"{folder}: tensor {in_body[0]}{more} {problem}")
    unexpected = sorted(info["unexpected_keys"])
    if unexpected:
        more = f", ... ({len(unexpected)} in all)" if len(unexpected) > 5 else ""
        log.warning("%s: not used: %s%s", folder, ", ".join(unexpected[:5]), more)
    return missing


def _draw_head(inner: ForeignModule) -> set[str]:
    """Draw new weights for the head; returns the names of its parameters."""
    drawn = dict(type(inner)(inner.config).named_parameters())
    names = {name for name, _ in inner.named_parameters() if not is_of_body(inner, name)}
    with torch.no_grad():
        for name in names:
            inner.get_parameter(name).copy_(drawn[name])
    return names


def _check_labels(
    folder: Path, inner: ForeignModule, info: Mapping[str, Any], fresh: set[str]
) -> None:
    """Refuse a head that was trained for other labels; names such as LABEL_0 are not compared."""
    names = {name for name, _ in inner.named_parameters() if not is_of_body(inner, name)}
    if info["mismatched_keys"]:
        raise InputError(f"{folder}: its head was trained for other labels; {REPLACE_HEAD}")
    if names & fresh and not names <= fresh:
        absent = min(names & fresh)
        raise InputError(f"{folder}: a part of the head is missing ({absent}); {REPLACE_HEAD}")
    in_file, wanted = saved_labels(read_config(folder)) or {}, dict(inner.config.id2label)
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in in_file.values())
    if names <= fresh or in_file == wanted or (unnamed and len(in_file) == len(wanted)):
        return
    shown = [", ".join(list(each.values())[:4]) for each in (in_file, wanted)]
    raise InputError(
        f"{folder}: its head was trained for the labels {shown[0]}, but the data has {shown[1]}; "
        f"{REPLACE_HEAD}"
    )


def _check_finite(folder: Path, inner: nn.Module) -> None:
    for name, parameter in inner.named_parameters():
        if not bool(parameter.isfinite().all()):
            raise InputError(f"{folder}: tensor {name}: found numbers that are not finite")


@torch.no_grad()
def _check_outputs(folder: Path, model: PaddedModel) -> None:
    """Compare a few outputs of the model to find out how it may be used.

    A language model's logits must be the product of hidden states and output weights; otherwise
    InputError is raised. If outputs depend on pads, a warning is logged.
    """
    config = model.config.get_text_config()
    ids = torch.arange(14) * 7919 % config.vocab_size
    pad = getattr(config, "pad_token_id", None)  # some configs have no such entry
    ids[ids == (-1 if pad is None else pad)] = (0 if pad else 1) % config.vocab_size
    lengths = torch.tensor([9, 5])
    both = _logits(model, ids, lengths)
    if model.task == "causal_lm":
        rows = [model.inner(input_ids=part.unsqueeze(0)).logits[0] for part in ids.split([9, 5])]
        expected = torch.cat(rows)
        if not torch.allclose(both[:9], expected[:9], rtol=1e-3, atol=1e-4):
            found = f"{type(model.inner).__name__} changes logits after applying its output weights"
            raise InputError(f"{folder}: {found}; accepted: other models")
    model.check_packing(ids, lengths)
    alone = _logits(model, ids[9:], lengths[1:])
    padded = both[1:] if model.task == "sequence_classification" else both[9:]
    _warn_of_pads(folder, model, padded, alone)


@torch.no_grad()
def _check_pads(folder: Path, model: PaddedModel) -> None:
    """Compare an encoder-decoder's outputs for a text in a padded batch and alone."""
    ids, sources, targets = distinct_ids(model.config, 14), torch.tensor([9, 5]), [6, 3]
    both = model(
        ids, sources, decoder_target_ids=ids[:9], decoder_sequence_lengths=torch.tensor(targets)
    )
    one = model(
        ids[9:],
        sources[1:],
        decoder_target_ids=ids[6:9],
        decoder_sequence_lengths=torch.tensor([3]),
    )
    _warn_of_pads(folder, model, both.projection.rows()[6:], one.projection.rows())


def _warn_of_pads(
    folder: Path, model: PaddedModel, padded: torch.Tensor, alone: torch.Tensor
) -> None:
    """Warn if outputs of a padded row differ from those of the row alone by more than rounding.

    The tolerance is relative to the norm of all outputs, since a new head's outputs are small.
    """
    rounding = max(1e-4, 8 * torch.finfo(alone.dtype).eps)
    if not (padded - alone).norm() <= rounding * alone.norm():  # also if some are NaN
        text = "%s: outputs of %s depend on pads, so gradients change with the split of a batch"
        log.warning(text, folder, type(model.inner).__name__)


def _logits(model: PaddedModel, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    outputs = model(ids, SequenceLengths(lengths))
    return outputs.projection.rows() if model.task == "causal_lm" else outputs.logits
