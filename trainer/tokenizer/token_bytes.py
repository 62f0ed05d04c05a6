"""Token bytes: finds the bytes that a token represents."""

import re
from functools import lru_cache

from trainer.tokenizer.vocabulary import Vocabulary

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""A token for a single byte, in vocabularies with byte fallback."""
SPACE = "▁"
"""The character with which SentencePiece replaces a space."""


class TokenBytes:
    """Maps a token's id to its bytes; some tokens are only a part of a character."""

    def __init__(self, tokenizer: Vocabulary) -> None:
        self._backend = tokenizer.backend
        added = tokenizer.backend.get_added_tokens_decoder().items()
        self._known = {token: str(each.content).encode() for token, each in added}
        self._byte_level = "ByteLevel" in repr(tokenizer.backend.decoder)

    def __call__(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._bytes_of(self._backend.id_to_token(token))
        return self._known[token]

    def _bytes_of(self, text: str | None) -> bytes:
        if text is None:  # the embedding table has more rows than there are tokens
            return b""
        if self._byte_level:
            table = _bytes_of_characters()
            return bytes(table[c] for c in text if c in table)
        if found := BYTE_TOKEN.fullmatch(text):
            return bytes([int(found[1], 16)])
        return text.replace(SPACE, " ").encode()


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """A character -> the byte that it represents in byte-level BPE (Radford et al., 2019)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + number): byte for number, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted
