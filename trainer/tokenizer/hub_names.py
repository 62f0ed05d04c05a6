"""Hub names: a vocabulary with the attributes of transformers' tokenizers."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
from tokenizers import AddedToken

from trainer.checkpoint import files
from trainer.errors import InputError
from trainer.stores.url import local_folder
from trainer.tokenizer.vocabulary import Vocabulary


class HubNames(Vocabulary):
    """A vocabulary with the attributes of transformers' tokenizers."""

    is_fast = True
    """True, since this package has no tokenizers in pure Python."""

    @property
    def backend_tokenizer(self) -> tokenizers.Tokenizer:
        """The tokenizer of the library `tokenizers`; the same as `backend`."""
        return self.backend

    @property
    def vocab(self) -> dict[str, int]:
        """All tokens with their ids; the same as `get_vocab()`."""
        return self.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The id of an added token -> the token with its flags."""
        return self.backend.get_added_tokens_decoder()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The added tokens with their ids; the same as `get_added_vocab()`."""
        return self.get_added_vocab()

    @property
    def init_kwargs(self) -> dict[str, Any]:
        """The config, with the caller's options, and the path of the tokenizer."""
        return {**self.config, "name_or_path": self.name_or_path}

    @property
    def init_inputs(self) -> tuple[()]:
        """The positional arguments: none, since `init_kwargs` has all arguments."""
        return ()

    @property
    def max_len_single_sentence(self) -> int:
        """The maximum number of tokens of a text, without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int:
        """The maximum number of tokens of a pair of texts, without special tokens."""
        return self.model_max_length - self.num_special_tokens_to_add(True)

    def get_special_tokens_mask(
        self,
        token_ids_0: Sequence[int],
        token_ids_1: Sequence[int] | None = None,
        already_has_special_tokens: bool = False,
    ) -> list[int]:
        """The mask of an encoded text or pair: 1 for each special token, 0 for other tokens.

        With `already_has_special_tokens`, `token_ids_0` includes the special tokens. Otherwise the
        ids are those of one text or a pair, and the mask also covers the special tokens that the
        tokenizer would add. Raises InputError for a pair with `already_has_special_tokens`.
        """
        if not already_has_special_tokens:
            second = None if token_ids_1 is None else len(token_ids_1)
            return self._mask_around(len(token_ids_0), second)
        if token_ids_1 is not None:
            raise InputError("token_ids_1: found with already_has_special_tokens; accepted: None")
        special = set(self.all_special_ids)
        return [int(int(number) in special) for number in token_ids_0]

    def save_vocabulary(
        self, save_directory: str | Path, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the files of the vocabulary, such as vocab.txt, or vocab.json and merges.txt.

        Returns their paths. These files do not contain the rules that split texts, which
        `save_pretrained` also writes.
        """
        folder = local_folder(save_directory)
        files.make_folder(folder)
        with TemporaryDirectory() as scratch:
            written = [Path(name) for name in self.backend.model.save(scratch, filename_prefix)]
            for file in written:
                files.write_bytes(folder / file.name, file.read_bytes())
        return tuple(str(folder / file.name) for file in written)

    def _mask_around(self, first: int, second: int | None) -> list[int]:
        """The special tokens mask of a row, for texts with these numbers of tokens."""
        probe = self.sample_row(pair=second is not None)
        sizes, mask = {0: first, 1: second or 0}, []
        done: set[int] = set()
        for sequence in probe.sequence_ids:
            if sequence is None:
                mask.append(1)
            elif sequence not in done:
                done.add(sequence)
                mask += [0] * sizes[sequence]
        return mask
