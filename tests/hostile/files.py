"""The real files to mutate, written by the program itself, and how each of them is read."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

WORDS = "the a dull bright film plot was is of and never again 0 1 2 3 good bad"
TINY = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 128,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
TRAIN = ("trainer.max_steps=2", "trainer.save_steps=1", "trainer.global_batch_size=8")
"""A run of two steps with a checkpoint after each."""
QUIET = ("trainer.precision=fp32", "callbacks=none", "launch.num_processes=1")
PREDICT = ("job=predict", "input.text=the film", *QUIET)


@dataclass(frozen=True)
class Reader:
    """One kind of file, and the command that reads it."""

    files: tuple[str, ...]
    """Globs below the folder of a case; one matching file is mutated."""
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """The seed files in a case's folder."""
    sealed: bool = False
    """Whether the manifest of a checkpoint is updated to fit, as a forger would."""
    environment: tuple[str, ...] = ()
    """Variables, one of which is given a hostile value."""
    call: str = ""
    """A reader that no command reaches, by its name in `worker.CALLS`."""


RESUME = ("model.path=model", "dataset.train=data/rows.jsonl", "output_dir=run", *QUIET)
READERS: dict[str, Reader] = {
    "safetensors": Reader(("model/model.safetensors",), ("model.path=model", *PREDICT), ("model",)),
    "index": Reader(("sharded/*.index.json",), ("model.path=sharded", *PREDICT), ("sharded",)),
    "gguf": Reader(
        ("tiny.gguf",),
        ("job=generate", "model.path=tiny.gguf", "input.prompt=a", "generation.max_new_tokens=2"),
        ("tiny.gguf",),
    ),
    "h5": Reader(("h5/tf_model.h5",), needs=("h5",), call="h5"),
    "tokenizer": Reader(
        ("model/tokenizer.json", "model/tokenizer_config.json", "model/special_tokens_map.json"),
        ("model.path=model", *PREDICT),
        ("model",),
    ),
    "template": Reader(
        ("chat/tokenizer_config.json", "chat/generation_config.json"),
        (
            *("job=generate", "model.path=chat", "input.prompt=a", "input.chat=true"),
            "generation.max_new_tokens=2",
        ),
        ("chat",),
    ),
    "config": Reader(("model/config.json",), ("model.path=model", *PREDICT), ("model",)),
    "recipe": Reader(("model/recipe.json",), ("model.path=model", *PREDICT), ("model",)),
    "adapter": Reader(
        ("adapter/adapter_config.json", "adapter/adapter_model.safetensors"),
        ("model.path=adapter", *PREDICT),
        ("model", "adapter"),
    ),
    "state": Reader(
        ("run/checkpoint-2/state/*",),
        (*RESUME, *TRAIN, "trainer.max_steps=3"),
        ("model", "run", "data"),
        sealed=True,
    ),
    "weights of a checkpoint": Reader(
        ("run/checkpoint-2/*",),
        (*RESUME, *TRAIN, "trainer.max_steps=3"),
        ("model", "run", "data"),
        sealed=True,
    ),
    "manifest": Reader(
        ("run/checkpoint-2/manifest.json", "run/checkpoint-2/state/*"),
        (*RESUME, *TRAIN, "trainer.max_steps=3"),
        ("model", "run", "data"),
    ),
    "run": Reader(
        ("run/results.json", "run/metrics.jsonl"), (*RESUME, *TRAIN), ("model", "run", "data")
    ),
    "received": Reader(
        ("run/config.yaml",), ("from=run", "output_dir=again"), ("model", "run", "data")
    ),
    "cache": Reader(
        ("cache/*/*",), (*RESUME, *TRAIN, "output_dir=new"), ("model", "cache", "data")
    ),
    **{
        f"{name} data": Reader(
            (f"data/rows.{name}",),
            (
                *("job=inspect", "recipe=sequence_classification", "model.path=model"),
                f"dataset.train=data/rows.{name}",
            ),
            ("model", "data"),
        )
        for name in ("csv", "tsv", "json", "jsonl", "parquet")
    },
    "saved data": Reader(
        ("saved/*",),
        (
            *("job=inspect", "recipe=sequence_classification", "model.path=model"),
            "dataset.path=saved",
        ),
        ("model", "saved"),
    ),
    "yaml": Reader(
        ("mine/experiment/x.yaml",),
        ("--config-dir", "mine", "experiment=x", "model.path=model", "--cfg", "job"),
        ("mine",),
    ),
    "environment": Reader(
        ("data/rows.csv",),
        ("model.path=model", *PREDICT),
        ("model", "data"),
        environment=(
            *("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT", "MASTER_ADDR", "SLURM_PROCID"),
            *("SLURM_NTASKS", "TEMPERING_RUN", "TEMPERING_CACHE", "TEMPERING_SECRET", "TZ"),
            *("XDG_CACHE_HOME", "NO_COLOR", "COLUMNS", "ACCELERATE_MIXED_PRECISION", "LANG"),
            *("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "OMP_NUM_THREADS", "PMI_SIZE"),
        ),
    ),
}


def make(folder: Path) -> None:
    """Fill this process's empty working folder with the seeds of all readers."""
    import launch

    _rows(folder / "data")
    make_config(folder)
    make_models(folder)
    # a run's files hold absolute paths, and a case is a copy of the seeds
    code = launch.main([*_in(folder, RESUME), *TRAIN])
    assert code == 0, code
    shutil.rmtree(folder / "model")
    shutil.copytree(folder / "run" / "model", folder / "model")
    (folder / "model" / "manifest.json").unlink()


def _in(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    places = ("model.path=", "dataset.train=", "output_dir=")
    return [
        f"{a.partition('=')[0]}={folder / a.partition('=')[2]}" if a.startswith(places) else a
        for a in arguments
    ]


def make_models(folder: Path) -> None:
    """The models and data that need torch and datasets."""
    import torch
    from datasets import Dataset, disable_progress_bars
    from safetensors.torch import save_file

    from trainer.models.auto import TASKS, AutoConfig
    from trainer.tokenizer import Tokenizer

    disable_progress_bars()
    torch.manual_seed(0)
    kinds = {"model": "wordpiece", "chat": "gpt2"}
    for name, kind in kinds.items():
        tokenizer = Tokenizer.train([WORDS] * 5, vocab_size=300, kind=kind)
        if name == "chat":
            tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        sizes = dict(TINY if name == "model" else LLAMA)
        task = "sequence_classification" if name == "model" else "causal_lm"
        entries = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
        config = AutoConfig({"model_type": sizes.pop("model_type")}, {**sizes, **entries})
        model = TASKS[task].from_config(config)
        model.save_pretrained(folder / name)
        # The template is in tokenizer_config.json, so that mutations reach it.
        tokenizer.save_pretrained(folder / name, save_jinja_files=False)
        if name == "model":
            model.save_pretrained(folder / "sharded", max_shard_size="4KB")
            tokenizer.save_pretrained(folder / "sharded")
            model.save_pretrained(folder / "h5", format="tf")
    layer = "base_model.model.bert.encoder.layer.0.attention.self.query"
    (folder / "adapter").mkdir()
    matrices = {"A": torch.ones(2, 16), "B": torch.ones(16, 2)}
    named = {f"{layer}.lora_{name}.weight": matrix for name, matrix in matrices.items()}
    save_file(named, folder / "adapter" / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "base_model_name_or_path": "model", "r": 2, "lora_alpha": 4}
    text = json.dumps({**described, "target_modules": ["query"]})
    (folder / "adapter" / "adapter_config.json").write_text(text)
    rows = {"text": [f"the film {i}" for i in range(16)], "label": ["good", "bad"] * 8}
    Dataset.from_dict(rows).save_to_disk(folder / "saved")
    Dataset.from_dict(rows).to_parquet(folder / "data" / "rows.parquet")
    _gguf(folder / "tiny.gguf")


def _rows(folder: Path) -> None:
    folder.mkdir()
    rows = [(f"the film {i}", "good" if i % 2 else "bad", i) for i in range(16)]
    objects = [{"text": text, "label": label, "n": n} for text, label, n in rows]
    for name, comma in (("csv", ","), ("tsv", "\t")):
        lines = [comma.join(map(str, row)) for row in (("text", "label", "n"), *rows)]
        (folder / f"rows.{name}").write_text("\n".join(lines) + "\n")
    (folder / "rows.json").write_text(json.dumps(objects))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))


def make_config(folder: Path) -> None:
    """A user's own config folder."""
    (folder / "mine" / "experiment").mkdir(parents=True)
    text = """# @package _global_
defaults: [_self_]
seed: 3
recipe: {max_length: 16, text: text}
trainer: {learning_rate: 0.001, max_steps: 3}
dataset: {max_train_rows: 5}
"""
    (folder / "mine" / "experiment" / "x.yaml").write_text(text)


def _gguf(file: Path) -> None:
    """A llama of one layer with random weights and byte-level BPE."""
    import gguf
    import numpy as np

    dice, writer = np.random.default_rng(0), gguf.GGUFWriter(file, "llama")
    for name, value in (("context_length", 64), ("embedding_length", 16), ("block_count", 1)):
        getattr(writer, f"add_{name}")(value)
    for name, value in (("feed_forward_length", 16), ("head_count", 2), ("head_count_kv", 2)):
        getattr(writer, f"add_{name}")(value)
    writer.add_layer_norm_rms_eps(1e-6)
    letters = [chr(number) for number in range(33, 127)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<s>", "</s>", *letters, "\u0120", "ab"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    names = {name: (16, 16) for name in ("attn_q", "attn_k", "attn_v", "attn_output")}
    names |= {name: (16, 16) for name in ("ffn_gate", "ffn_up", "ffn_down")}
    names |= {"attn_norm": (16,), "ffn_norm": (16,)}
    tensors = {f"blk.0.{name}.weight": shape for name, shape in names.items()}
    tensors |= {"token_embd.weight": (98, 16), "output.weight": (98, 16)}
    tensors |= {"output_norm.weight": (16,)}
    for name, shape in tensors.items():
        writer.add_tensor(name, dice.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
