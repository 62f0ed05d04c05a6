"""llama.cpp's programs: what they print need not be whole characters."""

from pathlib import Path

import pytest

from trainer.errors import EnvironmentFault
from trainer.export import llama_cpp

PROGRAM = """\
#!/bin/sh
printf 'general.name str = caf\\303...\\n'
printf 'tokens: \\344\\275\\n' >&2
cp "$1" "$2" || exit 1
"""


def test_texts_that_are_cut_within_a_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quantizer prints the start of each of a file's texts, counted in bytes."""
    program = tmp_path / "llama-quantize"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    (tmp_path / "a.gguf").write_bytes(b"weights")
    llama_cpp.quantize(tmp_path / "a.gguf", tmp_path / "b.gguf", "q4_k_m")
    assert (tmp_path / "b.gguf").read_bytes() == b"weights"
    with pytest.raises(EnvironmentFault, match="llama-quantize: "):
        llama_cpp.quantize(tmp_path / "none.gguf", tmp_path / "c.gguf", "q4_k_m")
