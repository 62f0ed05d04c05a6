"""BERT (Devlin et al., 2018), and models in its format, such as MiniLM."""

from trainer.models.blocks.encoder import Encoder
from trainer.models.family import Family, FamilyHead
from trainer.models.formats import bert_format

FAMILY = Family(
    model_type="bert",
    name="Bert",
    prefix="bert",
    defaults={**bert_format.DEFAULTS, "pad_token_id": 0},
    synonyms=bert_format.SYNONYMS,
    required=bert_format.REQUIRED,
    body=Encoder,
    keys=bert_format.KEYS,
    own_heads={
        "base": FamilyHead(pooler=True),
        "masked_lm": FamilyHead(
            keys=bert_format.MASKED_LM_KEYS,
            tied=bert_format.MASKED_LM_TIED,
        ),
        "multiple_choice": FamilyHead(pooler=True),
        "sequence_classification": FamilyHead(pooler=True),
    },
    known_extras=("embeddings.position_ids", "pooler.*", "cls.seq_relationship.*"),
)
