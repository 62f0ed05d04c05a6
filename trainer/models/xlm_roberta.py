"""XLM-RoBERTa (Conneau et al., 2019): RoBERTa for a hundred languages."""

from trainer.models.roberta_format import roberta_family

FAMILY = roberta_family("xlm-roberta", "XLMRoberta", vocab_size=30522)
