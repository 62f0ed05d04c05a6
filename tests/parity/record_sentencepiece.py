"""Writes the SentencePiece models and ids that test_sentencepiece.py compares with.

pip install sentencepiece; python tests/parity/record_sentencepiece.py
"""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece

FOLDER = Path(__file__).resolve().parent / "fixtures" / "sentencepiece"
CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "Ein kleiner Text über Häuser und Bäume, der etwas länger ist!",
    "Un café crème, s'il vous plaît, et un thé à la menthe.",
    "In 2019 there were 12 foxes, 34 dogs and 56 houses near the trees.",
]
TEXTS = [
    "The quick brown dog.",
    "  two  spaces   here ",
    "über die Häuser, café",
    "ﬁne 漢字 and\ttabs\nand lines",
    "",
    "jumps JUMPS (over)!",
]
MODELS = {
    "deberta": {
        **{"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3},
        **{"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"},
    },
    "fairseq": {},
    "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "albert": {
        **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "pad_piece": "<pad>"},
        "control_symbols": ["[CLS]", "[SEP]", "[MASK]"],
    },
}


def main() -> None:
    """Train the models on a few sentences with a small normalization table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch):
        Path("corpus").write_text("\n".join(CORPUS * 20), encoding="utf-8")
        spaces = "".join(f"{ord(c):x}\t20\n" for c in "\t\n")
        Path("rules.tsv").write_text(f"FB01\t66 69\n{spaces}", encoding="utf-8")
        for name, options in MODELS.items():
            sentencepiece.SentencePieceTrainer.train(  # the names reveal no local paths
                input="corpus",
                model_prefix=name,
                vocab_size=80,
                normalization_rule_tsv="rules.tsv",
                minloglevel=2,
                **options,
            )
            shutil.copy(f"{name}.model", FOLDER)
            model = sentencepiece.SentencePieceProcessor(model_file=f"{name}.model")
            found[name] = [model.encode(text) for text in TEXTS]
    recorded = {"version": sentencepiece.__version__, "texts": TEXTS, "ids": found}
    (FOLDER / "ids.json").write_text(json.dumps(recorded, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
