"""Heads of every family: labels and their refusals, flat choices, ties, the tour's numbers."""

import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import trainer
from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.family import find_family, native_families
from trainer.models.head_losses import classification_loss
from trainer.models.pretrained import log_pads

FAMILIES = native_families()
ENCODER_TASKS = [task for task in TASKS if task != "causal_lm"]
DECODER_TASKS = ["base", "causal_lm", "sequence_classification", "token_classification"]
IDS = torch.arange(4, 16).view(3, 4)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]])


def small(family, task, **overrides):
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 8,
    }
    known = find_family(family)
    sizes |= {"num_key_value_heads": 1} if "num_key_value_heads" in known.defaults else {}
    sizes = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    torch.manual_seed(0)
    config = AutoConfig({"model_type": family, "pad_token_id": 1, **sizes}, overrides)
    return TASKS[task].from_config(config).eval()


@pytest.fixture(scope="module")
def models():
    return {task: small("bert", task) for task in ENCODER_TASKS if task != "base"}


def pretraining(family):
    """The task that a family's models were pretrained for."""
    return "masked_lm" if "masked_lm" in find_family(family).heads else "causal_lm"


def refused(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_every_task_is_public_by_the_hubs_name():
    names = [name for name in trainer.__all__ if name.startswith("AutoModel")]
    assert {getattr(trainer, name) for name in names} == set(TASKS.values())
    suffixes = {task.class_suffix.replace("Model", "") for task in TASKS.values()}
    assert {name.removeprefix("AutoModel") for name in names} == suffixes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_every_head_and_names_its_classes(family):
    known = find_family(family)
    assert list(known.heads) == (DECODER_TASKS if "causal_lm" in known.heads else ENCODER_TASKS)
    for task in known.heads:
        suffix = known.heads[task].class_suffix or TASKS[task].class_suffix
        assert small(family, task).architecture == known.name + suffix


CLASSES = torch.tensor([[0, 1, -100, -100], [1, -100, -100, -100], [0, 0, 1, 1]])
WRONG = {
    "token_classification": [
        ({"labels": torch.tensor([0, 1, 0])}, "labels: found torch.int64 (3,); accepted: int64"),
        ({"labels": CLASSES[:2]}, "(2, 4); accepted: int64 or int32 (3, 4)"),
        ({"labels": CLASSES.float()}, "labels: found torch.float32"),
        ({"labels": CLASSES.clamp(min=-99)}, "labels: found -99; accepted: 0 to 1, or -100"),
        ({"labels": CLASSES.clamp(min=0) + 1}, "labels: found 2; accepted: 0 to 1"),
    ],
    "masked_lm": [
        ({"labels": IDS[0]}, "labels: found torch.int64 (4,)"),
        ({"labels": IDS + 8}, "labels: found 20; accepted: 0 to 19"),
    ],
    "question_answering": [
        ({"start_positions": torch.tensor([0, 1, 2])}, "end_positions: missing"),
        ({"end_positions": torch.tensor([0, 1, 2])}, "start_positions: missing"),
        ({"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([0, 1])},
         "start_positions: found torch.int64 (2,); accepted: int64 or int32 (3,)"),
        ({"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([0., 1., 2.])},
         "end_positions: found torch.float32"),
        ({"start_positions": torch.tensor([0, 1, 2]), "end_positions": torch.tensor([0, -1, 2])},
         "end_positions: found -1; accepted: 0 or more, or -100"),
    ],
    "multiple_choice": [
        ({"labels": torch.tensor([0])}, "input_ids: found shape (3, 4); accepted: [batch, choices"),
        ({"input_ids": IDS[None], "num_choices": 2}, "num_choices: found 2; accepted: 3"),
        ({"input_ids": IDS[None], "labels": torch.tensor([3])}, "labels: found 3; accepted: 0 to"),
        ({"input_ids": IDS[None], "labels": torch.tensor([0, 1])}, "labels: found torch.int64 (2"),
        ({"input_ids": IDS[None], "attention_mask": MASK[None, :2]}, "attention_mask: found shape"),
        ({"input_ids": IDS[0], "sequence_lengths": torch.tensor([2, 2]),
          "labels": torch.tensor([0])}, "num_choices: missing"),
        ({"input_ids": IDS[0], "sequence_lengths": torch.tensor([2, 1, 1]), "num_choices": 2},
         "num_choices: found 2; accepted: a divisor of the 3 sequences"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [(task, *case) for task, cases in WRONG.items() for case in cases],
)
def test_a_wrong_argument_is_named_in_one_line(models, task, inputs, message):
    refused(lambda: models[task](**{"input_ids": IDS, **inputs}), message)


def test_configs_that_a_head_cannot_have():
    refused(lambda: small("bert", "question_answering", num_labels=3), "found 3; accepted: 2 for")
    refused(
        lambda: small("bert", "masked_lm", tie_word_embeddings=False),
        "tie_word_embeddings: found False; accepted: True",
    )
    assert small("bert", "base", tie_word_embeddings=False)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"layer_types": ["full_attention"] * 2}, "layer_types: found ['full_attention', 'full_"),
        ({"layer_types": ["causal"]}, "for each of the 1 layers"),
        ({"layer_types": 3}, "layer_types: found 3"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers: found 0"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "'yarn'}}; accepted: a"),
        ({"rope_parameters": {"full_attention": {"rope_theta": "x"}}}, "rope_theta"),
        ({"rope_parameters": []}, "rope_parameters: found []"),
        ({"global_rope_theta": None}, "rope_theta: found None; accepted: a number above 0"),
        ({"local_attention": -2}, "local_attention: found -2"),
        ({"norm_bias": True}, "norm_bias: found True; accepted: False"),
        ({"classifier_pooling": "max"}, "classifier_pooling: found 'max'; accepted: cls, mean"),
        ({"classifier_activation": "gleu"}, "classifier_activation: found 'gleu'"),
        ({"initializer_cutoff_factor": "x"}, "initializer_cutoff_factor"),
    ],
)
def test_modernberts_own_entries_are_checked(entries, message):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 20}
    if "local_attention" in entries:
        sizes["num_hidden_layers"] = 2  # the first is global
    config = {"model_type": "modernbert", "pad_token_id": 1, **sizes, **entries}
    refused(lambda: TASKS["base"].from_config(AutoConfig(config)), message)


def test_roberta_counts_positions_after_the_pad_token():
    model = small("roberta", "base")
    ids = torch.arange(4, 11)[None]
    refused(lambda: model(ids), "a sequence of 7 tokens; accepted: up to 6", "truncation=True")
    padded = torch.tensor([[5, 6, 7, 1, 1, 1, 1, 1, 1]])
    with torch.no_grad():
        wide = model(padded, attention_mask=(padded != 1).long()).last_hidden_state
        narrow = model(padded[:, :3]).last_hidden_state
    torch.testing.assert_close(wide[:, :3], narrow)


def test_a_pad_token_inside_a_flat_sequence_does_not_count():
    model = small("roberta", "base")
    ids = torch.tensor([5, 1, 6, 7, 8, 1])
    lengths = torch.tensor([4, 2])
    with torch.no_grad():
        flat = model(ids, sequence_lengths=lengths).last_hidden_state
        placed = model(ids, sequence_lengths=lengths, position_ids=torch.tensor([0, 1, 2, 3, 0, 1]))
        rows = [model(row[None]).last_hidden_state[0] for row in ids.split([4, 2])]
    torch.testing.assert_close(flat, torch.cat(rows))
    assert torch.equal(placed.last_hidden_state, flat)


@pytest.mark.parametrize("task", ["token_classification", "masked_lm"])
def test_labels_of_pads_and_ignored_labels_count_nothing(models, task):
    model = models[task]
    labels = torch.randint(2, (3, 4))
    ignored = labels.masked_fill(MASK == 0, -100)
    with torch.no_grad():
        one = model(IDS, MASK, labels=labels)
        two = model(IDS, MASK, labels=ignored.int())
    assert torch.equal(one.loss, two.loss)
    assert not one.logits[MASK == 0].any()
    wanted = F.cross_entropy(one.logits[MASK == 1], labels[MASK == 1])
    torch.testing.assert_close(one.loss, wanted)


def test_a_span_that_is_not_there_counts_nothing(models):
    model = models["question_answering"]
    with torch.no_grad():
        start, end = torch.tensor([0, 1, 3]), torch.tensor([2, 1, -100])
        some = model(IDS, MASK, start_positions=start, end_positions=end)
        end = torch.tensor([2, 1, 4])  # beyond the input
        same = model(IDS, MASK, start_positions=start[:, None], end_positions=end[:, None])
        end = torch.tensor([2, 3, 9])  # a pad, and beyond
        pad = model(IDS, MASK, start_positions=start, end_positions=end)
    scores = [s.masked_fill(MASK == 0, -torch.inf) for s in (some.start_logits, some.end_logits)]
    starts = F.cross_entropy(scores[0], start)
    torch.testing.assert_close(
        some.loss, (starts + F.cross_entropy(scores[1][:2], torch.tensor([2, 1]))) / 2
    )
    assert torch.equal(some.loss, same.loss)
    torch.testing.assert_close(
        pad.loss, (starts + F.cross_entropy(scores[1][:1], torch.tensor([2]))) / 2
    )


def test_flat_choices_may_differ_in_number(models):
    model = models["multiple_choice"]
    lengths = torch.tensor([3, 4, 2, 3])
    ids = torch.arange(4, 16)
    with torch.no_grad():
        scores = model(ids, sequence_lengths=lengths).logits
        table = model(ids, sequence_lengths=lengths, num_choices=2, labels=torch.tensor([1, 0]))
        padded = torch.nn.utils.rnn.pad_sequence(ids.split(lengths.tolist()), batch_first=True)
        mask = torch.arange(4) < lengths[:, None]
        grid = model(padded.view(2, 2, 4), attention_mask=mask.view(2, 2, 4)).logits
    assert scores.shape == (4,) and torch.equal(scores.view(2, 2), table.logits)
    torch.testing.assert_close(grid, table.logits)
    torch.testing.assert_close(table.loss, F.cross_entropy(grid, torch.tensor([1, 0])))


def test_return_dict_and_unset_fields(models):
    outputs = models["question_answering"](IDS)
    assert outputs.keys() == ["start_logits", "end_logits"] and outputs.loss is None
    assert outputs[0] is outputs["start_logits"] is outputs.start_logits
    start, end = models["question_answering"](IDS, return_dict=False)
    assert torch.equal(start, outputs[0]) and torch.equal(end, outputs[:2][1])
    labels = torch.tensor([1])
    loss, logits = models["multiple_choice"](IDS[None], labels=labels, return_dict=False)
    assert loss.dim() == 0 and logits.shape == (1, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_tied_weights_are_saved_once_and_checked_on_load(family, tmp_path):
    model = small(family, pretraining(family), tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == model.num_parameters()
    prefix = model.config.family.prefix
    for second, first in model.family_head.tied.items():
        assert second not in weights
        name = first if first in weights else f"{prefix}.{first}"
        save_file({**weights, second: weights[name].clone()}, tmp_path / "model.safetensors")
        back = type(model).from_pretrained(tmp_path)
        assert all(map(torch.equal, back.parameters(), model.parameters()))
        only_second = {other: weights[other] for other in weights if other != name}
        save_file({**only_second, second: weights[name]}, tmp_path / "model.safetensors")
        back = type(model).from_pretrained(tmp_path)
        assert all(map(torch.equal, back.parameters(), model.parameters()))
        save_file({**weights, second: weights[name] + 1}, tmp_path / "model.safetensors")
        refused(lambda: type(model).from_pretrained(tmp_path), second, "differs from", name)
        assert type(model).from_pretrained(tmp_path, new_head=True)


def test_one_body_under_every_head_is_silent_about_the_others(tmp_path, caplog):
    """A pretrained language model as each of the others: fresh heads, nothing unused."""
    caplog.set_level(logging.INFO, logger="trainer")
    for family in FAMILIES:
        small(family, pretraining(family)).save_pretrained(tmp_path)
        for task in find_family(family).heads:
            caplog.clear()
            model = TASKS[task].from_pretrained(tmp_path)
            fresh = task not in ("base", pretraining(family)) or model.body.pooler is not None
            assert len(caplog.messages) == int(fresh), caplog.messages
            assert not any("not used" in message for message in caplog.messages)


def test_another_tasks_head_is_not_taken_for_this_ones(tmp_path, caplog):
    """The hub calls all of them classifier; config.json's architectures tell whose it is."""
    small("bert", "sequence_classification", id2label=["bad", "good"]).save_pretrained(tmp_path)
    caplog.set_level(logging.INFO, logger="trainer")
    tagger = TASKS["token_classification"]
    one = tagger.from_pretrained(tmp_path, id2label=["O", "B-LOC", "I-LOC"])
    assert one.head.classifier.weight.shape == (3, 16)
    assert "fresh random weights for head.classifier" in caplog.messages[0]
    one.save_pretrained(tmp_path)
    refused(lambda: tagger.from_pretrained(tmp_path, num_labels=5), "trained for other labels")


TOUR = torch.tensor([[-4.0833, 4.3364], [0.0818, -0.0418]])
"""The logits that the well-known quick tour prints for its two sentences."""


def test_the_tours_numbers():
    config = AutoConfig({"model_type": "distilbert"})
    loss = classification_loss(TOUR, torch.tensor([1, 0]), config)
    assert float(loss) == pytest.approx(0.3167, abs=5e-5)
    each = [float(classification_loss(TOUR[i : i + 1], torch.tensor([1 - i]), config))
            for i in range(2)]  # fmt: skip
    assert each == pytest.approx([2.2e-4, 0.6333], abs=5e-5)
    probabilities = TOUR.softmax(-1)
    wanted = torch.tensor([[2.2e-4, 0.99978], [0.53086, 0.46914]])
    torch.testing.assert_close(probabilities, wanted, rtol=0, atol=5e-6)


@pytest.mark.network
def test_the_tours_model_gives_the_tours_logits():
    path = "distilbert-base-uncased-finetuned-sst-2-english"
    tokenizer = trainer.AutoTokenizer.from_pretrained(path)
    model = trainer.AutoModelForSequenceClassification.from_pretrained(path)
    sentences = [
        "We are very happy to show you the 🤗 Transformers library.",
        "We hope you don't hate it.",
    ]
    batch = tokenizer(sentences, padding=True, truncation=True, max_length=512, return_tensors="pt")
    outputs = model(**batch, labels=torch.tensor([1, 0]))
    torch.testing.assert_close(outputs.logits.detach(), TOUR, rtol=0, atol=1e-4)
    assert float(outputs.loss.detach()) == pytest.approx(0.3167, abs=5e-5)


def test_pads_without_a_mask_are_told_of_once(caplog):
    model = small("bert", "base")
    handler = next(each for each in log_pads.filters)
    handler.passed = False
    ids = torch.tensor([[5, 6, 7, model.config.pad_token_id]])
    for _ in range(2):
        model(ids)
    model(ids, attention_mask=(ids != model.config.pad_token_id).long())
    assert caplog.text.count("and no attention_mask, so each counts as a token") == 1
