"""config.json as attributes: defaults, round trips, consistent labels, and every error."""

import copy
import json

import pytest

from trainer.errors import InputError
from trainer.models.config import ModelConfig, read_config

BERT = {"model_type": "bert"}
BART = {"model_type": "bart"}
LLAMA = {"model_type": "llama"}
DEBERTA = {"model_type": "deberta-v2"}
DISTILBERT = {"model_type": "distilbert", "dim": 64, "n_heads": 4}


def test_defaults_and_entries():
    config = ModelConfig({**BERT, "hidden_size": 384})
    assert (config.hidden_size, config.num_hidden_layers, config.num_labels) == (384, 12, 2)
    assert config.problem_type is None and config.output_attentions is False
    with pytest.raises(AttributeError, match="no_such"):
        _ = config.no_such


def test_the_shared_names_reach_the_familys_entries():
    config = ModelConfig(DISTILBERT, {"hidden_dropout_prob": 0.3})
    assert config.hidden_size == config.dim == 64
    assert config.to_dict()["dropout"] == 0.3
    assert "hidden_size" not in config.to_dict()
    assert config.layer_norm_eps == 1e-12 and config.type_vocab_size == 0


def test_unknown_entries_survive_and_defaults_are_written():
    entries = {**BERT, "a_new_entry": {"x": [1, None]}, "_name_or_path": "somewhere"}
    written = ModelConfig(entries).to_dict()
    assert entries.items() <= written.items()
    assert written["intermediate_size"] == 3072
    assert json.loads(json.dumps(written)) == ModelConfig(written).to_dict()


def test_copies_are_equal_and_independent():
    config = ModelConfig(BERT)
    other = copy.deepcopy(config)
    assert other == config
    other.hidden_dropout_prob = 0.5
    assert config.hidden_dropout_prob == 0.1 and other != config
    assert repr(config).startswith("ModelConfig({")


@pytest.mark.parametrize(
    ("entries", "overrides", "names"),
    [
        ({}, {}, ["LABEL_0", "LABEL_1"]),
        ({"num_labels": 3}, {}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {"1": "b", "0": "a"}}, {}, ["a", "b"]),
        ({"id2label": {"0": "a", "1": "b"}, "label2id": {"LABEL_0": 0}}, {}, ["a", "b"]),
        ({"label2id": {"b": 1, "a": 0}}, {}, ["a", "b"]),
        ({}, {"num_labels": 1}, ["LABEL_0"]),
        ({"id2label": {"0": "a", "1": "b"}}, {"num_labels": 2}, ["a", "b"]),
        ({"id2label": {"0": "a", "1": "b"}}, {"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({}, {"id2label": ["x", "y", "z"]}, ["x", "y", "z"]),
        ({}, {"id2label": {0: "x", 1: "y"}, "label2id": {"x": 0, "y": 1}}, ["x", "y"]),
        ({}, {"label2id": {"y": 1, "x": 0}}, ["x", "y"]),
    ],
)
def test_label_names_always_agree(entries, overrides, names):
    config = ModelConfig({**BERT, **entries}, overrides)
    assert list(config.id2label.values()) == names
    assert config.num_labels == len(names)
    written = config.to_dict()
    assert written["id2label"] == {str(index): name for index, name in enumerate(names)}
    assert written["label2id"] == {name: index for index, name in enumerate(names)}


def test_setting_labels_keeps_them_agreeing():
    config = ModelConfig(BERT)
    config.num_labels = 4
    assert len(config.label2id) == 4
    config.id2label = {0: "no", 1: "yes"}
    assert config.num_labels == 2 and config.label2id == {"no": 0, "yes": 1}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({}, "model_type: found None; accepted: albert, bart, bert, "),
        ({"model_type": "xlm_roberta"}, "found 'xlm_roberta'; accepted: albert, bart"),
        ({"model_type": "berd"}, "xlm-roberta; did you mean 'bert'"),
        ({"model_type": "encoder"}, "found 'encoder'"),
        ({"model_type": "../bert"}, "model_type: found"),
        ({"model_type": 3}, "model_type: found 3"),
        ({**BERT, "auto_map": {"AutoModel": "x.Y"}}, "found auto_map, which points at remote code"),
        ({**BERT, "trust_remote_code": True}, "trust_remote_code"),
        ({**BERT, "_attn_implementation_internal": "evil/kernel"}, "_attn_implementation_internal"),
        ({**BERT, "num_hidden_layers": 1001}, "num_hidden_layers: found 1001; accepted: 1 to 1000"),
        ({**BERT, "num_hidden_layers": 0}, "num_hidden_layers: found 0"),
        ({**BERT, "num_attention_heads": 7}, "hidden size 768 is not divisible by the 7"),
        ({**BART, "decoder_attention_heads": 7}, "hidden size 1024 is not divisible by the 7"),
        ({**BERT, "hidden_size": -768}, "hidden_size: found -768"),
        ({**BERT, "hidden_size": "768"}, "hidden_size: found '768' (str); accepted: int"),
        ({**BERT, "hidden_size": True}, "found True (bool); accepted: int"),
        ({**BERT, "vocab_size": 1 << 40}, "vocab_size"),
        ({**DISTILBERT, "n_layers": 1 << 20}, "n_layers: found 1048576"),
        ({**BERT, "hidden_act": "gleu"}, "hidden_act: found 'gleu'; accepted: gelu"),
        ({**BERT, "hidden_dropout_prob": 1.0}, "hidden_dropout_prob: found 1.0"),
        ({**BERT, "classifier_dropout": "x"}, "classifier_dropout: found 'x'"),
        ({**BERT, "position_embedding_type": "relative_key"}, "accepted: absolute"),
        ({**BERT, "is_decoder": True}, "is_decoder: found True; accepted: False"),
        ({**DISTILBERT, "sinusoidal_pos_embds": True}, "sinusoidal_pos_embds"),
        ({"model_type": "roberta", "pad_token_id": None}, "pad_token_id: found None; accepted: an"),
        ({**BERT, "pad_token_id": 40000}, "pad_token_id: found 40000"),
        ({"model_type": "qwen2", "eos_token_id": "2"}, "eos_token_id: found '2'; accepted: an id"),
        ({"model_type": "qwen2", "eos_token_id": [1, 2.0]}, "eos_token_id: found 2.0; accepted"),
        ({"model_type": "qwen2", "bos_token_id": "<s>"}, "bos_token_id: found '<s>'; accepted: an"),
        ({**BERT, "problem_type": "single_label"}, "problem_type: found 'single_label'"),
        ({**BERT, "id2label": {"0": "a", "2": "b"}}, "id2label: accepted: one name for each"),
        ({**BERT, "id2label": {"0": "a", "1": "a"}}, "id2label: found the same name twice"),
        ({**BERT, "id2label": "a"}, "id2label: found str; accepted: a mapping"),
        ({**BERT, "id2label": {}}, "id2label: accepted: one name for each"),
        ({**BERT, "num_labels": 0}, "num_labels: found 0"),
        ({**BERT, "label2id": {"a": 0, "b": 0}}, "label2id: found the same number twice"),
        (
            {**BERT, "gradient_checkpointing": "false"},
            "gradient_checkpointing: found 'false' (str)",
        ),
        ({**BERT, "task_heads": ["a"]}, "task_heads: found ['a'] (list); accepted: dict"),
        ({**LLAMA, "classifier_dropout": 5}, "classifier_dropout: found 5; accepted: at least 0"),
        ({**LLAMA, "rope_theta": "1e4"}, "rope_theta: found '1e4' (str); accepted: float"),
        ({**DEBERTA, "position_buckets": "256"}, "position_buckets: found '256' (str)"),
        ({**BERT, "num_labels": 3, "id2label": {"0": "a"}}, "num_labels is 3, but id2label has 1"),
    ],
)
def test_bad_entries_are_refused_in_one_line(entries, message):
    with pytest.raises(InputError) as caught:
        ModelConfig(entries, where="here")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"hiden_size": 64},
            "'hiden_size', which a config of model_type 'bert' does not have; did "
            "you mean 'hidden_size'",
        ),
        ({"auto_map": {}}, "found the entry 'auto_map'"),
        ({"model_type": "distilbert"}, "found the entry 'model_type'"),
        ({"num_labels": "three"}, "num_labels: found 'three'; accepted: an integer"),
        ({"hidden_dropout_prob": "0.1"}, "hidden_dropout_prob: found '0.1' (str); accepted: float"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers: found 2.0 (float); accepted: int"),
        ({"num_attention_heads": 5}, "not divisible"),
        ({"id2label": ["a", "b"], "num_labels": 3}, "num_labels is 3, but id2label has 2 names"),
        ({"id2label": ["a", "b"], "label2id": {"b": 0, "a": 1}}, "contradict each other"),
        ({"label2id": {"a": []}}, "label2id: accepted: a number for each name"),
        ({"label2id": {"a": float("inf")}}, "label2id: accepted: a number for each name"),
        ({"layer_norm_eps": 10**400}, "00 (int); accepted: float"),
    ],
)
def test_bad_overrides_are_refused_in_one_line(overrides, message):
    with pytest.raises(InputError) as caught:
        ModelConfig(BERT, overrides)
    assert message in str(caught.value)
    assert str(caught.value).startswith("model.config")


def test_a_refused_entry_changes_nothing():
    config = ModelConfig(BERT)
    before = copy.deepcopy(config)
    for name, value in {"vocab_size": 0, "num_attention_heads": 7, "num_labels": "x"}.items():
        with pytest.raises(InputError):
            setattr(config, name, value)
        assert config == before


def test_several_entries_are_set_together_or_not_at_all():
    config = ModelConfig({**BERT, "pad_token_id": 30000})
    config.update({"vocab_size": 100, "pad_token_id": 0, "_attn_implementation": "eager"})
    assert (config.vocab_size, config.pad_token_id) == (100, 0)
    assert config._attn_implementation == "eager"
    with pytest.raises(InputError, match="'hiden_size'"):
        config.update({"hidden_size": 1200, "hiden_size": 1200})
    assert config.hidden_size == 768


def test_an_integer_is_taken_for_a_float_and_null_for_a_pad_token():
    config = ModelConfig(BERT, {"hidden_dropout_prob": 0, "pad_token_id": None})
    assert config.hidden_dropout_prob == 0.0 and config.pad_token_id is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "has no config.json; accepted: a model's directory"),
        ("", "is not valid JSON"),
        ('{"model_type": "bert", "hid', "is not valid JSON"),
        ("[1, 2]", "found list; accepted: a JSON object"),
        ("[" * 100000, "is not valid JSON"),
    ],
)
def test_a_missing_or_truncated_file_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(tmp_path)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)


def test_outputs_are_never_tuples_by_config():
    assert ModelConfig({**BERT, "return_dict": True}, {"return_dict": True}).unused == []
    with pytest.raises(InputError, match="return_dict: found False; accepted: True"):
        ModelConfig({**BERT, "return_dict": False})
    assert ModelConfig({**BERT, "return_dict": False}, {"return_dict": True}).return_dict


def test_a_folder_is_read_with_overrides(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**BERT, "hidden_size": 24}))
    config = ModelConfig.from_pretrained(tmp_path, num_labels=3, num_hidden_layers=2)
    assert (config.hidden_size, config.num_labels, config.num_hidden_layers) == (24, 3, 2)
