"""XLM-RoBERTa (Conneau et al., 2019): multilingual RoBERTa."""

from trainer.models.formats.roberta_format import roberta_family

FAMILY = roberta_family("xlm-roberta", "XLMRoberta", vocab_size=30522)
