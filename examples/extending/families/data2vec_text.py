"""Data2Vec for texts (Baevski et al., 2022): RoBERTa under other names."""

from dataclasses import replace

from trainer.models.formats.roberta_format import roberta_family

FAMILY = replace(
    roberta_family("data2vec-text", "Data2VecText", vocab_size=30522), prefix="data2vec_text"
)
