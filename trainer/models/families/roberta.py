"""RoBERTa (Liu et al., 2019): BERT with a byte-level vocabulary; positions follow the pad id."""

from trainer.models.formats.roberta_format import roberta_family

FAMILY = roberta_family("roberta", "Roberta", vocab_size=50265)
