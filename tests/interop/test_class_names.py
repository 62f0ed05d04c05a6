"""Names of transformers' model classes are classes here, or their error names a replacement."""

import copy
import pickle
from pathlib import Path

import pytest
import torch

import tempering
import trainer
from trainer.errors import InputError
from trainer.interop.class_names import REPLACEMENTS, SAME
from trainer.models.auto import TASKS
from trainer.models.family import find_family, native_families

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}


def test_every_architecture_that_is_written_is_a_name() -> None:
    for family in map(find_family, native_families()):
        assert getattr(tempering, f"{family.name}Config").model_type == family.model_type
        assert getattr(trainer, f"{family.name}TokenizerFast") is trainer.Tokenizer
        for task, head in family.heads.items():
            if task != "sentence_embedding":  # the hub calls it BertModel
                cls = getattr(tempering, family.name + head.class_suffix)
                assert issubclass(cls, TASKS[task]) and cls.only_family is family


def test_models_are_of_their_familys_class(tmp_path: Path) -> None:
    config = trainer.BertConfig(**SIZES, intermediate_size=8, num_labels=3)
    torch.manual_seed(0)
    model = trainer.BertForSequenceClassification(config)
    torch.manual_seed(0)
    same = TASKS["sequence_classification"].from_config(config)
    assert type(model) is type(same) and type(model.base_model).__name__ == "BertModel"
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    model.save_pretrained(tmp_path)
    loaded = trainer.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    for again in (loaded, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(again) is trainer.BertForSequenceClassification
    assert repr(loaded).startswith("BertForSequenceClassification(")
    with pytest.raises(InputError, match="found 'bert'; accepted by RobertaModel: roberta"):
        trainer.RobertaModel.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="found 'bert'; accepted by GPT2Config: gpt2"):
        trainer.GPT2Config.from_pretrained(tmp_path)
    with pytest.raises(InputError, match="'hidden_sizes'.*did you mean 'hidden_size'"):
        trainer.BertConfig(hidden_sizes=8)


def test_other_names_of_transformers_are_answered() -> None:
    for name in SAME:
        assert isinstance(getattr(tempering, name), type)
    for name, answer in REPLACEMENTS.items():
        with pytest.raises(ImportError) as caught:
            getattr(tempering, name)
        assert name in str(caught.value) and answer in str(caught.value)
    with pytest.raises(
        ImportError, match="no class SomeBertModel; families that have classes: .*Bert"
    ):
        tempering.SomeBertModel  # noqa: B018
    for name in ("Foo", "nothing", "ForSequenceClassification_"):
        assert not hasattr(tempering, name)
