"""CamemBERT (Martin et al., 2020): RoBERTa for French."""

from trainer.models.formats.roberta_format import roberta_family

FAMILY = roberta_family("camembert", "Camembert", vocab_size=30522)
