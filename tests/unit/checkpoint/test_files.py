"""Writing, renaming and removing are atomic, and fail with a one-line error."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault, InputError

TENSORS = {
    "b.weight": torch.randn(3, 4),
    "a.weight": torch.randn(2, 5).bfloat16(),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 3),
    "ids": torch.arange(4),
    "transposed": torch.randn(4, 5).T,
    "flags": torch.tensor([True, False, True]),
    "half": torch.randn(7).half(),
    "double": torch.randn(2).double(),
    "bytes": torch.arange(5, dtype=torch.uint8),
    "complex": torch.randn(2, dtype=torch.complex64),
    "eight": torch.randn(3).to(torch.float8_e4m3fn),
    "words": torch.arange(3).to(torch.uint16),
    "counts": torch.arange(3).to(torch.uint32),
    "hashes": torch.tensor([2**63 + 1, 5], dtype=torch.uint64),
    "strided": torch.randn(10)[::3],
    "grad": torch.randn(2, requires_grad=True),
}


def test_tensors_are_bytes_as_the_library_writes_them(tmp_path):
    path = tmp_path / "model.safetensors"
    files.write_tensors(path, TENSORS, {"format": "pt"})
    whole = {name: tensor.detach().contiguous() for name, tensor in TENSORS.items()}
    assert len(path.read_bytes()) == len(save(whole, {"format": "pt"}))
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        view = torch.uint8 if name == "eight" else tensor.dtype
        assert torch.equal(found[name].view(view), tensor.detach().contiguous().view(view)), name


def test_floating_tensors_are_the_librarys_bytes_exactly(tmp_path):
    names = ("b.weight", "a.weight", "scalar", "empty", "half", "double")
    tensors = {name: TENSORS[name] for name in names}
    files.write_tensors(tmp_path / "x", tensors, {"format": "pt"})
    files.write_tensors(tmp_path / "y", load_file(tmp_path / "x"), {"format": "pt"})
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
    assert (tmp_path / "x").read_bytes() == save(tensors, {"format": "pt"})


def test_a_dtype_that_no_file_can_have_is_named(tmp_path):
    said = r"phases: found torch.complex128, which cannot be saved; accepted: float64, float32,"
    with pytest.raises(InputError, match=said):
        files.write_tensors(tmp_path / "x", {"phases": torch.zeros(2, dtype=torch.complex128)})
    assert not list(tmp_path.iterdir())


def test_no_tensors(tmp_path):
    files.write_tensors(tmp_path / "x", {})
    assert load_file(tmp_path / "x") == {}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_files_have_the_mode_that_the_user_wants(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        files.write_tensors(tmp_path / "x", {"w": torch.ones(2)})
        files.write_json(tmp_path / "y", {})
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in "xy"} == {mode}


def test_json_is_strict_and_in_order(tmp_path):
    value = {"b": float("nan"), "a": [float("inf"), (1, 2.5)], "c": {"d": -float("inf")}}
    files.write_json(tmp_path / "x.json", value)
    text = (tmp_path / "x.json").read_text()
    expected = {"b": None, "a": [None, [1, 2.5]], "c": {"d": None}}
    assert json.loads(text, parse_constant=pytest.fail) == expected
    assert text == json.dumps(expected, indent=2) + "\n"


def test_a_folder_is_removed_and_never_what_a_link_points_to(tmp_path):
    outside = tmp_path / "outside"
    (tmp_path / "doomed" / "deep").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tmp_path / "doomed" / "link").symlink_to(outside)
    (tmp_path / "doomed" / "deep" / "file").write_text("x")
    (tmp_path / ".del-doomed").mkdir()  # a name that is taken
    files.remove_folder(tmp_path / "doomed")
    (tmp_path / "link").symlink_to(outside)
    files.remove_folder(tmp_path / "link")
    assert {path.name for path in tmp_path.iterdir()} == {"outside", ".del-doomed"}
    assert (outside / "kept").exists()


def test_rename_takes_no_name_that_is_taken(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(EnvironmentFault, match="cannot rename: File exists"):
        files.rename(tmp_path / "a", tmp_path / "b")
    files.rename(tmp_path / "a", files.unused(tmp_path / "b"))
    assert {path.name for path in tmp_path.iterdir()} == {"b", "b-2"}


def test_append_truncate_and_digest(tmp_path):
    path = tmp_path / "log"
    files.append_line(path, "one")
    files.append_line(path, "zwei")
    assert path.read_text() == "one\nzwei\n"
    files.truncate(path, 4)
    assert path.read_text() == "one\n"
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    files.truncate(path, 0)
    assert files.sha256_of(path) == empty


@pytest.mark.parametrize("content", ["", "old"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, content):
    path = tmp_path / "results.json"
    if content:
        path.write_text(content)
    before = {p.name: p.read_text() for p in tmp_path.iterdir()}

    def full(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("during", "write"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "hook", full)
    told = r"results\.json: cannot write: No space left on device \(need 1.2 kB, free .*B\)$"
    with pytest.raises(EnvironmentFault, match=told) as caught:
        files.write_bytes(path, bytes(1200))
    assert "\n" not in str(caught.value)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == before


def test_real_errors_name_path_and_reason(tmp_path):
    (tmp_path / "file").write_text("")
    cases = {
        "Not a directory": lambda: files.write_text(tmp_path / "file" / "x", ""),
        "No such file": lambda: files.write_text(tmp_path / "absent" / "x", ""),
        "File name too long": lambda: files.write_text(tmp_path / ("x" * 300), ""),
        "File exists": lambda: files.make_folder(tmp_path / "file"),
        "Is a directory": lambda: files.write_text(tmp_path, ""),
    }
    for reason, work in cases.items():
        with pytest.raises(EnvironmentFault, match=f"^{tmp_path}.*: cannot .*{reason}"):
            work()


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (1.2e9, "1.2 GB"), (3e15, "3e+03 TB")],
)
def test_sizes_for_people(size, text):
    assert files.readable(size) == text
