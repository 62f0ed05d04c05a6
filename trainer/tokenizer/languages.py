"""Languages: tokenizers that add a language code to each text, such as mBART's."""

from collections.abc import Iterator
from contextlib import contextmanager

from tokenizers import processors

from trainer.errors import InputError, nearest
from trainer.tokenizer.layouts import spelled
from trainer.tokenizer.text_ends import TextEnds

AROUND = {"mbart": ("", "{eos} {code}"), "mbart50": ("{code}", "{eos}")}
"""A tokenizer's class -> templates of the special tokens before and after a text."""
DEFAULT = "en_XX"


class Languages(TextEnds):
    """A vocabulary with `src_lang` and `tgt_lang`, as in transformers' mBART tokenizers.

    Texts are marked with the code `src_lang`. The texts that a call passes as `text_target` are
    marked with `tgt_lang` or, if it is not set, with `src_lang`. For tokenizers of other classes,
    both attributes are None.
    """

    @property
    def src_lang(self) -> str | None:
        """The language code of texts."""
        return self.config.get("src_lang") or (DEFAULT if self._marks else None)

    @src_lang.setter
    def src_lang(self, code: str) -> None:
        self._check("src_lang", code)
        self.config["src_lang"] = code
        self._mark(code)

    @property
    def tgt_lang(self) -> str | None:
        """The language code of target texts."""
        return self.config.get("tgt_lang")

    @tgt_lang.setter
    def tgt_lang(self, code: str | None) -> None:
        if code is not None:
            self._check("tgt_lang", code)
        self.config["tgt_lang"] = code

    @contextmanager
    def for_targets(self) -> Iterator[bool]:
        """A context in which texts are marked with the language code of target texts.

        Its value is whether this code differs from that of other texts.
        """
        source, target = self.src_lang, self.tgt_lang
        if not self._marks or source is None or target in (None, source):
            yield False
            return
        self._mark(str(target))
        try:
            yield True
        finally:
            self._mark(source)

    @property
    def _marks(self) -> tuple[str, str] | None:
        name = str(self.config.get("tokenizer_class") or "")
        return AROUND.get(spelled(name.removesuffix("Fast").removesuffix("Tokenizer")))

    def _check(self, name: str, code: str) -> None:
        """Raise InputError if the tokenizer has no language codes, or does not know this one."""
        if self._marks is None:
            kind = self.config.get("tokenizer_class")
            raise InputError(f"{name}: found '{code}' for a {kind}, which marks no languages")
        if code not in (known := self.additional_special_tokens or self.get_added_vocab()):
            raise InputError(
                f"{name}: found '{code}'; accepted: a token{nearest(code, list(known))}"
            )

    def _mark(self, code: str) -> None:
        assert self._marks is not None and self.eos_token is not None
        before, after = (each.format(eos=self.eos_token, code=code) for each in self._marks)
        used = [*before.split(), *after.split()]
        self.backend.post_processor = processors.TemplateProcessing(
            single=f"{before} $A {after}".strip(),
            pair=f"{before} $A $B {after}".strip(),
            special_tokens=[(token, self.convert_tokens_to_ids(token)) for token in used],
        )
