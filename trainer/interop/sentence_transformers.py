"""sentence-transformers folders: reads and writes the files that describe the pooling."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.foreign.json_values import parse_json

MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
POOLINGS = {"mean": "mean", "cls": "first", "lasttoken": "last", "weightedmean": "weighted"}
"""Name of a pooling in sentence-transformers -> name in this package."""
FLAGS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
}
"""Name of a pooling -> its flag in the config, which all sentence-transformers versions read."""


def is_embedding_folder(folder: Path) -> bool:
    """Whether a folder describes how token vectors are pooled."""
    if not folder.is_dir() or not (folder / MODULES).is_file():
        return False
    kinds = [_kind(module) for module in _read(folder / MODULES, list)]
    return kinds != ["Transformer"]  # the folder of a cross-encoder has no pooling


def cross_encoder_activation(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The activation of a cross-encoder: "sigmoid" or "none".

    Returns None if the folder holds no cross-encoder, or one with several labels. `config` holds
    the entries of config.json, in which older versions store the activation.
    """
    newer = _read(folder / PROMPTS, dict, optional=True)
    older = config.get("sentence_transformers")
    if newer.get("model_type") != "CrossEncoder" and not isinstance(older, Mapping):
        return None
    if len(config.get("id2label") or {}) > 1:
        return None  # a classifier of pairs
    entries = {**(older if isinstance(older, Mapping) else {}), **newer}
    return "none" if str(entries.get("activation_fn")).endswith("Identity") else "sigmoid"


def write_modules(
    folder: Path,
    *,
    width: int,
    pooling: str,
    normalize: bool,
    max_length: int,
    prompts: Mapping[str, str],
    default_prompt: str | None,
) -> None:
    """Write the files that make sentence-transformers compute the same vectors, of size `width`."""
    chain = {"Transformer": "", "Pooling": "1_Pooling"}
    if normalize:
        chain["Normalize"] = "2_Normalize"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(chain.items())
    ]
    pooling_name = next(name for name, ours in POOLINGS.items() if ours == pooling)
    flags = {flag: name == pooling_name for name, flag in FLAGS.items()}
    about = {
        "prompts": dict(prompts),
        "default_prompt_name": default_prompt,
        "similarity_fn_name": "cosine",
    }
    files.make_folder(folder / "1_Pooling")
    pooled = {"word_embedding_dimension": width, **flags, "include_prompt": True}
    files.write_json(folder / "1_Pooling" / "config.json", pooled)
    if normalize:
        files.make_folder(folder / "2_Normalize")
        files.write_json(folder / "2_Normalize" / "config.json", {})
    files.write_json(folder / TRANSFORMER, {"max_seq_length": max_length, "do_lower_case": False})
    files.write_json(folder / PROMPTS, about)
    files.write_json(folder / MODULES, modules)


def read_modules(folder: Path) -> dict[str, Any]:
    """The values for fields of the recipe `SentenceEmbedding` that the folder's files contain.

    Raises InputError, which names the file, for unsupported modules and options.
    """
    modules = _read(folder / MODULES, list)
    kinds = [_kind(module) for module in modules]
    if kinds not in (
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        accepted = "accepted: Transformer, Pooling and optionally Normalize"
        raise InputError(f"{folder / MODULES}: found {', '.join(kinds) or 'nothing'}; {accepted}")
    if modules[0].get("path"):
        found = f"the model is in the folder {modules[0]['path']!r:.60}"
        raise InputError(f"{folder / MODULES}: {found}; accepted: next to modules.json")
    about = _read(folder / PROMPTS, dict, optional=True)
    prompts = about.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise InputError(f"{folder / PROMPTS}: prompts: accepted: a text for each name")
    default = about.get("default_prompt_name")
    if default is not None and default not in (*prompts,):
        found = f"default_prompt_name: found {default!r:.60}"
        raise InputError(f"{folder / PROMPTS}: {found}; accepted: null, or a name in prompts")
    return {
        "pooling": _pooling(folder / str(modules[1].get("path")) / "config.json"),
        "normalize": kinds[-1] == "Normalize",
        "max_length": _max_length(folder),
        # if there is a default, an empty prompt says that it does not apply
        "prompts": {n: prompt for n, prompt in prompts.items() if prompt or default is not None},
        "prompt": default,
    }


def _pooling(file: Path) -> str:
    found = _read(file, dict)
    modes = found.get("pooling_mode") or [n for n, flag in FLAGS.items() if found.get(flag)]
    modes = modes if isinstance(modes, list) else [modes]
    if len(modes) != 1 or modes[0] not in (*POOLINGS,):
        found = " and ".join(map(str, modes))[:60] or "none"
        accepted = f"accepted: one of {', '.join(POOLINGS)}"
        raise InputError(f"{file}: found the pooling {found}; {accepted}")
    if found.get("include_prompt") is False:
        raise InputError(f"{file}: include_prompt: found false; accepted: true")
    return POOLINGS[modes[0]]


def _max_length(folder: Path) -> int:
    """The maximum length in tokens; as in sentence-transformers, the model's positions limit it."""
    about = _read(folder / TRANSFORMER, dict, optional=True)
    if about.get("do_lower_case"):
        found = "do_lower_case: found true"
        accepted = "accepted: false, with a tokenizer that lowercases"
        raise InputError(f"{folder / TRANSFORMER}: {found}; {accepted}")
    config = _read(folder / "config.json", dict)
    tokenizer = _read(folder / "tokenizer_config.json", dict, optional=True)
    lengths = [
        value
        for value in (
            about.get("max_seq_length") or tokenizer.get("model_max_length"),
            config.get("max_position_embeddings"),
        )
        if type(value) is int and 0 < value < 1 << 24
    ]
    return min(lengths, default=512)


def _kind(module: object) -> str:
    """The name of the class in an entry of modules.json, without the class's package."""
    well_formed = isinstance(module, dict) and isinstance(module.get("path", ""), str)
    return str(module.get("type")).rpartition(".")[2] if well_formed else "no module"  # type: ignore[attr-defined]


def _read(file: Path, kind: type, optional: bool = False) -> Any:
    if optional and not file.is_file():
        return kind()
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{file}: not readable as JSON ({reason})") from None
    if not isinstance(found, kind):
        accepted = "a list" if kind is list else "an object"
        raise InputError(f"{file}: found {type(found).__name__}; accepted: {accepted}")
    return found
