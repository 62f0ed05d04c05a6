"""RoBERTa (Liu et al., 2019): BERT with another vocabulary, positions after the pad token's id."""

from trainer.models.roberta_format import roberta_family

FAMILY = roberta_family("roberta", "Roberta", vocab_size=50265)
