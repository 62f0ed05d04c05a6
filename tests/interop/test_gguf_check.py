"""GGUF files whose counts, lengths or types contradict their size are refused before reading."""

import struct
from pathlib import Path

import pytest

from trainer.errors import InputError
from trainer.interop.gguf_check import check_entry, check_structure


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def header(tensors: int, entries: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + rest


def array(kind: int, count: int) -> bytes:
    return text(b"x") + struct.pack("<IIQ", 9, kind, count)


NESTED = text(b"x") + b"".join(struct.pack("<IQ", 9, 1) for _ in range(50))
TENSOR = text(b"t") + struct.pack("<I", 2)

FORGED = {
    "elements of an array, with": header(0, 1, array(8, 2**20) + bytes(64)),
    "an array of 1,099,511,627,776 elements": header(0, 1, array(0, 2**40) + bytes(64)),
    "metadata entries, with": header(0, 2**40, bytes(64)),
    "tensors, with": header(2**40, 0, bytes(64)),
    "bytes of a string, with": header(0, 1, struct.pack("<Q", 2**60) + bytes(64)),
    "arrays nested deeper": header(0, 1, NESTED[:9] + struct.pack("<I", 9) + NESTED[9:]),
    "fewer bytes than announced": header(1, 0)[:-4],
    "metadata entry of type 99": header(0, 1, text(b"x") + struct.pack("<I", 99) + bytes(64)),
    "a tensor of 9 dimensions": header(1, 0, text(b"t") + struct.pack("<I", 9) + bytes(99)),
    "a tensor of 85,070,591,730": header(
        1, 0, TENSOR + struct.pack("<QQIQ", 2**63, 2**63, 0, 0) + bytes(64)
    ),
    "a tensor beyond the end of the file": header(
        1, 0, TENSOR + struct.pack("<QQIQ", 1, 1, 0, 2**50) + bytes(64)
    ),
}


@pytest.mark.parametrize("said", FORGED)
def test_counts_beyond_the_file(said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    file.write_bytes(FORGED[said])
    with pytest.raises(InputError) as caught:
        check_structure(file)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llama.block_count", "2"),
        ("llama.attention.head_count_kv", [1, 2]),
        ("llama.rope.freq_base", float("nan")),
        ("llama.attention.layer_norm_rms_epsilon", "x"),
        ("tokenizer.ggml.tokens", [1]),
        ("tokenizer.ggml.merges", ["ab"]),
        ("tokenizer.ggml.scores", [float("inf")]),
        ("tokenizer.ggml.eos_token_id", 1.5),
        ("tokenizer.chat_template", 3),
        ("general.architecture", 3),
        ("general.sampling.temp", "warm"),
        ("general.sampling.top_k", [40]),
        ("granite.logit_scale", "1.0"),
        ("gemma3.rope.freq_base_swa", "10000"),
        ("llama.rope.scale_linear", "2"),
    ],
)
def test_entries_of_another_type(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^a.gguf: {name}: found .*; accepted: "):
        check_entry(Path("a.gguf"), name, value)


def test_a_true_file_passes(tmp_path: Path) -> None:
    rest = array(8, 2) + text(b"a") + text(b"b") + TENSOR + struct.pack("<QQIQ", 2, 2, 0, 0)
    (tmp_path / "a.gguf").write_bytes(header(1, 1, rest) + bytes(64))
    check_structure(tmp_path / "a.gguf")
    check_entry(Path("a.gguf"), "llama.block_count", 2)
    check_entry(Path("a.gguf"), "somebody.elses.entry", object())
