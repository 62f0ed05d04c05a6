"""Outputs are read as attributes, items, indices and slices; unset fields are absent."""

import pytest
import torch

from trainer.models.heads.bare import BaseModelOutput
from trainer.models.heads.sequence_classification import SequenceClassifierOutput

LOGITS = torch.tensor([[1.0, 2.0]])
OUTPUT = SequenceClassifierOutput(logits=LOGITS, attentions=(LOGITS, LOGITS))


def test_attribute_key_and_index_agree():
    assert OUTPUT.logits is OUTPUT["logits"] is OUTPUT[0] is OUTPUT.get("logits") is LOGITS
    assert OUTPUT[1] is OUTPUT[-1] is OUTPUT.attentions
    assert OUTPUT[:2] == OUTPUT.to_tuple() == tuple(OUTPUT.values())


def test_an_unset_field_is_none_and_absent():
    assert OUTPUT.loss is None
    assert OUTPUT.keys() == list(OUTPUT) == ["logits", "attentions"]
    assert "loss" not in OUTPUT and "logits" in OUTPUT
    assert len(OUTPUT) == 2
    assert dict(OUTPUT.items()).keys() == {"logits", "attentions"}
    assert OUTPUT.get("loss", 7) == 7
    with pytest.raises(KeyError):
        OUTPUT["loss"]
    with pytest.raises(IndexError):
        OUTPUT[2]


def test_repr_is_the_dataclass_one():
    empty = BaseModelOutput()
    assert repr(empty) == (
        "BaseModelOutput(last_hidden_state=None, pooler_output=None, "
        "past_key_values=None, hidden_states=None, attentions=None)"
    )
    assert empty.to_tuple() == ()
