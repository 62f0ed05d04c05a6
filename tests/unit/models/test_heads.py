"""Heads of every family: labels, refused labels, flat choices, ties, the quick tour's numbers."""

import inspect
import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import trainer
from trainer import registry
from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig
from trainer.models.family import find_family, native_families
from trainer.models.heads.losses import classification_loss

FAMILIES = native_families()
OWN = {"electra": ["replaced_token_detection"]}
"""Tasks of one family."""
OTHERS = ("causal_lm", "seq2seq_lm", "replaced_token_detection", "multi_task")
KINDS = {
    "encoder": [task for task in TASKS if task not in OTHERS],
    "decoder": [
        "base",
        "causal_lm",
        "sentence_embedding",
        "sequence_classification",
        "token_classification",
        "token_classification_crf",
    ],
    "encoder_decoder": ["seq2seq_lm"],
}
"""The tasks of each kind of body."""
NOT_OF_THE_HUB = ("multi_task", "sentence_embedding", "token_classification_crf")
"""Tasks for which transformers has no class; their classes are in `trainer.models.auto`."""
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
    if known.kind == "encoder_decoder":
        sizes |= {"num_decoder_layers": 1, "decoder_start_token_id": 1}
    if "max_position_embeddings" in known.constants:
        del sizes["max_position_embeddings"]
    sizes = {known.synonyms.get(name, name): value for name, value in sizes.items()}
    torch.manual_seed(0)
    config = AutoConfig({"model_type": family, "pad_token_id": 1, **sizes}, overrides)
    return TASKS[task].from_config(config).eval()


@pytest.fixture(scope="module")
def models():
    return {task: small("bert", task) for task in KINDS["encoder"] if task != "base"}


def pretraining(family):
    """The task that a family's models were pretrained for."""
    heads = find_family(family).heads
    return next(task for task in ("masked_lm", "causal_lm", "seq2seq_lm") if task in heads)


def refused(call, *parts):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_every_task_is_public_by_the_hubs_name():
    names = [name for name in trainer.__all__ if name.startswith("AutoModel")]
    models = [model for task, model in TASKS.items() if task not in NOT_OF_THE_HUB]
    assert {getattr(trainer, name) for name in names} == set(models)
    suffixes = {model.class_suffix.replace("Model", "") for model in models}
    assert {name.removeprefix("AutoModel") for name in names} == suffixes


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_every_head_and_names_its_classes(family):
    known = find_family(family)
    tasks = KINDS[known.kind] + OWN.get(family, [])
    single = [task for task in known.heads if task != "multi_task"]  # which has its own heads
    assert single == sorted(tasks, key=list(TASKS).index)
    for task in single:
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
        ({"input_ids": IDS[0], "sequence_lengths": torch.tensor([2, 1, 1]), "num_choices": 3.0},
         "num_choices: found 3.0; accepted: 1 or more"),
    ],
    "sequence_classification": [
        ({"input_ids": IDS[0], "sequence_lengths": [4]}, "sequence_lengths: found list; accepted:"),
        ({"input_ids": IDS[0], "sequence_lengths": torch.tensor([4], dtype=torch.int8)},
         "sequence_lengths: found torch.int8 (1,) on cpu; accepted: int64 or int32 [B]"),
        ({"position_ids": torch.zeros(3, 4)}, "position_ids: found torch.float32; accepted: int64"),
        ({"token_type_ids": torch.zeros(3, 4)}, "token_type_ids: found torch.float32; accepted:"),
        ({"attention_mask": torch.ones(3, 5, 4, 4).bool()}, "found 5 heads; accepted: 1 or 2"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(3, 4, 8)},
         "inputs_embeds: found shape (3, 4, 8); accepted: [batch, length, 16]"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(4, 16)},
         "inputs_embeds: found shape (4, 16); accepted: [batch, length, 16]"),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "inputs", "message"),
    [(task, *case) for task, cases in WRONG.items() for case in cases],
)
def test_a_wrong_argument_is_named_in_one_line(models, task, inputs, message):
    refused(lambda: models[task](**{"input_ids": IDS, **inputs}), message)


def test_a_decoders_inputs_are_tensors():
    model = small("bart", "seq2seq_lm")
    refused(
        lambda: model(IDS, decoder_input_ids=IDS.tolist()),
        "decoder_input_ids: found list; accepted: a tensor, as the tokenizer's",
    )


def test_configs_that_a_head_cannot_have():
    refused(lambda: small("bert", "question_answering", num_labels=3), "found 3; accepted: 2 for")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"layer_types": ["full_attention"] * 2}, "layer_types: found ['full_attention', 'full_"),
        ({"layer_types": ["causal"]}, "for each of the 1 layers"),
        ({"layer_types": 3}, "layer_types: found 3"),
        ({"layer_types": [["full_attention"]]}, "layer_types: found [['full_attention']]"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers: found 0"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn"}}},
            "'yarn'}}; accepted: for each",
        ),
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


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"norm_rel_ebd": None}, "norm_rel_ebd: found None; accepted: 'none', if unset"),
        ({"conv_kernel_size": None}, "conv_kernel_size: found None"),
        ({"conv_kernel_size": 3, "conv_groups": 0}, "conv_groups: found 0; accepted: a divisor"),
        ({"conv_kernel_size": 3, "conv_groups": None}, "conv_groups: found None; accepted: a d"),
        ({"conv_kernel_size": 2}, "conv_kernel_size: found 2; accepted: 0, or odd"),
        ({"pos_att_type": 5}, "pos_att_type: found 5 with relative_attention false"),
    ],
)
def test_debertas_own_entries_are_checked(entries, message):
    refused(lambda: small("deberta-v2", "base", **entries), message)


def test_debertas_entries_without_effect_may_be_null():
    entries = {"share_att_key": None, "conv_groups": None, "conv_kernel_size": 0}
    assert small("deberta-v2", "base", **entries).config.share_att_key is None


@pytest.mark.parametrize(
    ("family", "entries"),
    [("qwen3", {"layer_types": [["a"]]}), ("smollm3", {"no_rope_layers": [[1]]})],
)
def test_lists_in_lists_of_layers_are_refused(family, entries):
    refused(lambda: small(family, "base", **entries), f"{next(iter(entries))}: found [[")


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (None, "task_heads: found None; accepted: task_heads={name: "),
        ({"a.b": {}}, "found the name 'a.b'; accepted: names without dots"),
        ({"": {}}, "found the name ''; accepted: names without dots"),
        ({1: {}}, "found the name 1; accepted: names without dots"),
        ({"a": {"config": [1]}}, "task_heads.a.config: found list; accepted: a mapping"),
    ],
)
def test_tasks_that_a_model_cannot_have_are_refused(heads, message):
    heads = heads and {n: {"head": "token_classification", **each} for n, each in heads.items()}
    entries = {**small("bert", "base").config.to_dict(), "task_heads": heads}
    refused(lambda: TASKS["multi_task"].from_config(AutoConfig(entries)), message)


def test_tasks_of_sequences_are_checked():
    heads = {"a": {"head": "token_classification"}, "b": {"head": "sequence_classification"}}
    model = small("bert", "multi_task", task_heads=heads)
    flat = {"input_ids": IDS[0], "sequence_lengths": torch.tensor([3, 1])}
    assert list(model(**flat, sequence_tasks=torch.tensor([1, 1])).tasks) == ["b"]
    for number in (2, -1):
        refused(
            lambda number=number: model(**flat, sequence_tasks=torch.tensor([0, number])),
            f"sequence_tasks: found {number}; accepted: 0 to 1",
        )
    refused(
        lambda: model(**flat, sequence_tasks=torch.tensor([0.0, 1.0])),
        "sequence_tasks: found torch.float32 (2,) on cpu; accepted: integers (2,)",
    )


def test_the_fixed_bias_counts_however_it_was_set():
    model = small("bart", "seq2seq_lm")
    plain = model(IDS, labels=IDS).logits
    weights = {**model.state_dict(), "head.bias": torch.ones(1, 20)}
    model.load_state_dict(weights, assign=True)
    torch.testing.assert_close(model(IDS, labels=IDS).logits, plain + 1)
    with torch.inference_mode():
        model = small("bart", "seq2seq_lm")
        torch.testing.assert_close(model(IDS, labels=IDS).logits, plain)
        model.head.bias += 1
        torch.testing.assert_close(model(IDS, labels=IDS).logits, plain + 1)


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
        end = torch.tensor([2, 3, 9])  # a pad, and beyond the input
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
    for second, first in model.tied.items():
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
    """A pretrained language model loaded as each other task: fresh heads, no unused tensors."""
    caplog.set_level(logging.INFO, logger="trainer")
    for family in FAMILIES:
        small(family, pretraining(family)).save_pretrained(tmp_path)
        for task in set(find_family(family).heads) - {"multi_task"}:
            caplog.clear()
            model = TASKS[task].from_pretrained(tmp_path)
            without_head = ("base", "sentence_embedding", pretraining(family))
            fresh = task not in without_head or model.body.pooler is not None
            assert len(caplog.messages) == int(fresh), caplog.messages
            assert not any("not used" in message for message in caplog.messages)


def test_another_tasks_head_is_not_taken_for_this_ones(tmp_path, caplog):
    """The hub calls all of them classifier; architectures in config.json tell them apart."""
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
    ids = torch.tensor([[5, 6, 7, model.config.pad_token_id]])
    for _ in range(2):
        model(ids)
    model(ids, attention_mask=(ids != model.config.pad_token_id).long())
    assert caplog.text.count("and no attention_mask, so each counts as a token") == 1


NEW_HEAD = '''
"""Scores of tokens: a head that no family knows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.models.heads.layers import TokenHead
from trainer.models.inputs import Arguments
from trainer.models.outputs import ModelOutput
from trainer.models.pretrained import PretrainedModel


@dataclass
class Output(ModelOutput):
    loss: Tensor | None = None
    scores: Tensor | None = None


class Answers(Arguments, total=False):
    targets: Tensor | None
    sharpness: float


class TokenScores(PretrainedModel):
    task = "token_scores"
    class_suffix = "ForTokenScores"
    kinds = ("encoder", "decoder")
    arguments = Answers
    labels = ("targets",)
    keys = {"classifier": "scorer"}

    @staticmethod
    def build(config):
        return TokenHead(config.hidden_size, 1, dropout=0.0)

    def respond(self, encoding, answers):
        scores = answers.get("sharpness", 1.0) * self.head(encoding.encoded.tokens).squeeze(-1)
        targets = answers.get("targets")
        loss = None if targets is None else (scores - encoding.layout.pack(targets)).square().mean()
        return Output(loss=loss, scores=encoding.layout.unpack(scores))


HEAD = TokenScores
'''


@pytest.fixture
def new_head(tmp_path, monkeypatch):
    """A head in its own file, in a package that the user trusts."""
    folder = tmp_path / "package_with_a_head" / "heads"
    folder.mkdir(parents=True)
    (folder / "token_scores.py").write_text(NEW_HEAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    registry.trust("package_with_a_head")
    return TASKS["token_scores"]


def test_a_head_is_one_file_for_all_families(new_head, tmp_path):
    for family in FAMILIES:
        if find_family(family).kind == "encoder_decoder":
            continue
        config = small(family, "base").config
        torch.manual_seed(0)
        model = new_head.from_config(config).eval()
        assert model.architecture == f"{config.family.name}ForTokenScores"
        outputs = model(IDS, MASK, None, None, torch.zeros(3, 4), sharpness=2.0)
        assert outputs.scores.shape == (3, 4) and not outputs.scores[MASK == 0].any()
        outputs.loss.backward()
        assert model.head.classifier.weight.grad.any()
        model.save_pretrained(tmp_path / family)
        assert "scorer.weight" in load_file(tmp_path / family / "model.safetensors")
        again = new_head.from_pretrained(tmp_path / family)(IDS, MASK, sharpness=2.0)
        assert torch.equal(again.scores, outputs.scores) and again.loss is None


def test_calls_take_labels_and_flags_by_position_or_by_name(models):
    labels = torch.tensor([0, 1, 0])
    classify = models["sequence_classification"]
    by_name = classify(IDS, MASK, labels=labels, output_hidden_states=True, return_dict=False)
    by_place = classify(IDS, MASK, None, None, labels, True, False, False)
    assert len(by_place) == len(by_name) == 3
    assert all(map(torch.equal, by_place[2], by_name[2]))
    with pytest.raises(TypeError, match="multiple values for argument 'labels'"):
        classify(IDS, MASK, None, None, labels, labels=labels)
    with pytest.raises(TypeError, match="unexpected keyword argument 'label'"):
        classify(IDS, label=labels)
    with pytest.raises(TypeError, match="takes 8 positional arguments but 9 were given"):
        classify(IDS, MASK, None, None, labels, True, False, False, None)


def test_flags_of_a_call_override_the_config():
    asked = {"output_hidden_states": True, "output_attentions": True}
    model = small("bert", "sequence_classification", **asked)
    assert model(IDS, MASK).keys() == ["logits", "hidden_states", "attentions"]
    assert model(IDS, MASK, **dict.fromkeys(asked, False)).keys() == ["logits"]


def test_the_signature_of_forward_lists_a_heads_own_arguments():
    named = {
        task: [*inspect.signature(cls.forward).parameters][5:]
        for task, cls in TASKS.items()
        if task != "base"
    }
    derived = type("Own", (TASKS["token_classification"],), {})  # as fully_shard creates one
    named["a subclass"] = [*inspect.signature(derived.forward).parameters][5:]
    flags = ["output_hidden_states", "output_attentions", "return_dict"]
    inputs = ["inputs_embeds", "past_key_values", "use_cache"]
    always = ["sequence_lengths", "dropout_keys"]
    assert named["sequence_classification"] == ["labels", *flags, *inputs, *always]
    assert named["question_answering"] == [
        "start_positions",
        "end_positions",
        *flags,
        *inputs,
        *always,
    ]
    assert named["multiple_choice"] == ["labels", *flags, *inputs, "num_choices", *always]
    own = ["cache", "logits_to_keep", "num_items_in_batch"]
    assert named["causal_lm"] == ["labels", *flags, *inputs, *own, *always]
    items = [*inputs, "num_items_in_batch"]
    assert (
        named["a subclass"] == named["token_classification"] == ["labels", *flags, *items, *always]
    )


def test_a_head_without_a_name_for_a_module_is_refused(models, monkeypatch, tmp_path):
    model = models["sequence_classification"]
    monkeypatch.delitem(model.family_head.keys, "classifier")
    refused(
        lambda: model.save_pretrained(tmp_path),
        "model: the keys of the head sequence_classification: no entry 'classifier'; accepted:",
    )
