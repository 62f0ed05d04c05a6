"""SentencePiece layouts: converts the SentencePiece model of a family to a tokenizer.json."""

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import InputError
from trainer.tokenizer.sentencepiece_model import (
    CONTROL,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    read_sentencepiece,
)
from trainer.tokenizer.special_tokens import content

FILES = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model") + (
    "tokenizer.model",
)
SPACE = "▁"
Part = dict[str, Any]
"""An object in tokenizer.json."""


def _strings(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CODES_25 = _strings(
    "ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT "
    "lv_LV my_MM ne_NP nl_XX ro_RO ru_RU si_LK tr_TR vi_VN zh_CN"
)
CODES_52 = CODES_25 + _strings(
    "af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF "
    "pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI"
)
"""The languages of mBART and of mBART-50, in the order of their ids."""
SENTINELS = tuple(f"<extra_id_{number}>" for number in reversed(range(100)))
"""T5's sentinel tokens, which replace the masked spans of a text."""
CLS_SEP = {"bos": "[CLS]", "eos": "[SEP]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"}
FAIRSEQ = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>"}
FAIRSEQ |= {"cls": "<s>", "mask": "<mask>"}
T5 = {"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}


@dataclass(frozen=True)
class SpmLayout:
    """How a family builds its vocabulary and rows from a SentencePiece model's pieces (tokens)."""

    roles: Mapping[str, str]
    """Role -> special token of the family."""
    single: str
    """The row for one text, A, with its special tokens; LANG stands for the language code."""
    pair: str
    """The row for two texts, A and B, with their special tokens."""
    before: tuple[Piece, ...] = ()
    """The pieces that replace the first `skipped` pieces of the model."""
    skipped: int = 0
    """The number of the model's pieces that `before` replaces."""
    codes: tuple[str, ...] = ()
    """The special tokens after the model's pieces: language codes, or sentinel tokens."""
    mask_last: bool = False
    """Whether <mask> is the last piece."""
    normalizers: Callable[[Mapping[str, Any]], list[Part]] = lambda config: []
    """A function from the config to the normalizers that precede the model's own."""
    spaces: str = SPACE
    """The text that replaces a run of spaces."""


def _fairseq(*names: str) -> tuple[Piece, ...]:
    return tuple(Piece(name) for name in names)


def _lowercase(config: Mapping[str, Any]) -> list[Part]:
    return [{"type": "Lowercase"}] if config.get("do_lower_case") else []


def _of_albert(config: Mapping[str, Any]) -> list[Part]:
    """The normalizers of quotes, accents and case, in the order of ALBERT's code."""
    parts = [{"type": "Replace", "pattern": {"String": q}, "content": '"'} for q in ("``", "''")]
    if not config.get("keep_accents"):
        parts += [{"type": "NFKD"}, {"type": "StripAccents"}]
    return parts + ([{"type": "Lowercase"}] if config.get("do_lower_case", True) else [])


def _as_bert(
    unk: str, pad: str, normalizers: Callable[[Mapping[str, Any]], list[Part]]
) -> SpmLayout:
    roles = {**CLS_SEP, "unk": unk, "pad": pad}
    around = "[CLS] A [SEP]", "[CLS] A [SEP] B:1 [SEP]:1"
    return SpmLayout(roles, *around, normalizers=normalizers, spaces=" ")


def _as_fairseq(
    single: str,
    pair: str,
    before: tuple[Piece, ...] = _fairseq("<s>", "<pad>", "</s>", "<unk>"),
    skipped: int = 3,
    codes: tuple[str, ...] = (),
) -> SpmLayout:
    return SpmLayout(FAIRSEQ, single, pair, before, skipped, codes, mask_last=True)


_CAMEMBERT = (
    *_fairseq("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>"),
    Piece("<unk>NOTUSED", -100.0),
)
_ROBERTA = "<s> A </s>", "<s> A </s> </s> B </s>"
LAYOUTS: Mapping[str, SpmLayout] = {
    "debertav2": _as_bert("[UNK]", "[PAD]", _lowercase),
    "albert": _as_bert("<unk>", "<pad>", _of_albert),
    "camembert": _as_fairseq(*_ROBERTA, before=_CAMEMBERT, skipped=1),
    "xlmroberta": _as_fairseq(*_ROBERTA),
    "mbart": _as_fairseq("A </s> LANG", "A B </s> LANG", codes=CODES_25),
    "mbart50": _as_fairseq("LANG A </s>", "LANG A B </s>", codes=CODES_52),
    "t5": SpmLayout(T5, "A </s>", "A </s> B </s>", codes=SENTINELS),
}
"""A family, in lower case without - and _ (see `layouts.spelled`) -> its layout."""


def find_sentencepiece(folder: Path) -> Path | None:
    """The file with the SentencePiece model of a folder; None if the folder has none."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def as_tokenizer_json(file: Path, config: dict[str, Any], family: str) -> str:
    """The text of the tokenizer.json into which transformers converts a SentencePiece model.

    Adds missing special tokens of the family to `config`. Raises InputError for an unsupported
    family or kind of model, with a command that converts the model.
    """
    layout, model = LAYOUTS.get(family), read_sentencepiece(file)
    if layout is None or model.kind != "Unigram":
        raise InputError(
            f"{file}: found a SentencePiece model ({model.kind}) of the family '{family}' without "
            f"tokenizer.json; accepted: Unigram of {', '.join(LAYOUTS)}; others are converted by: "
            'pip install transformers sentencepiece protobuf; python -c "from transformers import '
            f"AutoTokenizer as A; A.from_pretrained('{file.parent}').save_pretrained('CONVERTED')\""
        )
    for role, token in layout.roles.items():
        config.setdefault(f"{role}_token", token)
    if layout.codes:
        config.setdefault("additional_special_tokens", list(layout.codes))
    return json.dumps(_parts(model, layout, config, family), ensure_ascii=False)


def _parts(
    model: SentencePieceModel, layout: SpmLayout, config: Mapping[str, Any], family: str
) -> Part:
    pieces = [*layout.before, *model.pieces[layout.skipped :]]
    pieces += [Piece(code, kind=CONTROL) for code in layout.codes]
    if layout.mask_last:
        pieces.append(Piece("<mask>", kind=CONTROL))
    vocab = [[piece.text, _score(piece, family)] for piece in pieces]
    ids = {piece.text: number for number, piece in reversed(list(enumerate(pieces)))}
    unk = layout.before.index(Piece("<unk>")) if layout.before else model.unk_id
    metaspace = {"replacement": SPACE, "prepend_scheme": "always", "split": True}
    words: list[Part] = [{"type": "Metaspace", **metaspace}]
    if family == "debertav2" and config.get("split_by_punct"):
        words.insert(0, {"type": "Punctuation", "behavior": "Isolated"})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(pieces, layout),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model, layout, config)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": words},
        "post_processor": _around(layout, config, ids),
        "decoder": {"type": "Metaspace", **metaspace},
        "model": {"type": "Unigram", "unk_id": unk, "vocab": vocab, "byte_fallback": False},
    }


def _score(piece: Piece, family: str) -> float:
    """The score of a piece.

    ALBERT separates a comma from the digit before it, so the scores of pieces that contain both are
    lowered.
    """
    text = piece.text
    joined = len(text) > 1 and text[-1] == "," and text[-2].isdigit()
    return piece.score - 100 if family == "albert" and joined else piece.score


def _normalizers(
    model: SentencePieceModel, layout: SpmLayout, config: Mapping[str, Any]
) -> list[Part]:
    parts = layout.normalizers(config)
    charsmap = base64.b64encode(model.charsmap).decode()
    own: list[Part] = (
        [{"type": "Precompiled", "precompiled_charsmap": charsmap}] if charsmap else []
    )
    strip: Part = {"type": "Strip", "strip_left": layout.spaces == " ", "strip_right": True}
    joined: Part = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": layout.spaces}
    return [*parts, strip, *own, joined] if layout.spaces == " " else [*parts, *own, strip, joined]


def _added(pieces: Sequence[Piece], layout: SpmLayout) -> list[Part]:
    """The added tokens: the model's control and user-defined pieces, and special tokens."""
    special = {*layout.roles.values(), *layout.codes}
    flags = {"single_word": False, "rstrip": False, "normalized": False}
    found: dict[str, Part] = {}
    for number, piece in enumerate(pieces):
        named = piece.text in special or piece.kind == CONTROL
        if named or piece.kind == USER_DEFINED:
            own = {"special": named, "lstrip": piece.text == layout.roles.get("mask")}
            found.setdefault(piece.text, {"id": number, "content": piece.text, **flags, **own})
    return list(found.values())


def _around(layout: SpmLayout, config: Mapping[str, Any], ids: Mapping[str, int]) -> Part:
    language = content(config.get("src_lang")) or "en_XX"
    used: dict[str, Part] = {}

    def parts(template: str) -> list[Part]:
        found = []
        for word in template.replace("LANG", language).split():
            name, _, kind = word.partition(":")
            entry = {"id": name, "type_id": int(kind or 0)}
            is_text = name in ("A", "B")
            if not is_text:
                if name not in ids:
                    raise InputError(f"SentencePiece model: has no piece '{name}'")
                used[name] = {"id": name, "ids": [ids[name]], "tokens": [name]}
            found.append({"Sequence" if is_text else "SpecialToken": entry})
        return found

    single, pair = parts(layout.single), parts(layout.pair)
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": used}
