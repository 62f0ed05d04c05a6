"""Our Keras models and h5 files against transformers 4.57's TensorFlow classes, and in training.

These need the environment of constraints-tensorflow.txt: `python -m pytest -m tensorflow`.
"""

import importlib

import numpy as np
import pytest
import torch

import trainer
from trainer.errors import InputError
from trainer.models.auto import TASKS, AutoConfig, AutoModelForSequenceClassification
from trainer.models.blocks.encoder import Encoder
from trainer.models.family import find_family, native_families

pytestmark = pytest.mark.tensorflow

FAMILIES = [name for name in native_families() if find_family(name).body is Encoder]
"""Families that transformers had in TensorFlow."""
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
CLASSES = {
    "base": "AutoModel",
    "masked_lm": "AutoModelForMaskedLM",
    "multiple_choice": "AutoModelForMultipleChoice",
    "question_answering": "AutoModelForQuestionAnswering",
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}
CASES = [(family, task) for family in FAMILIES for task in CLASSES]
RIGHT = [[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7]
LEFT = [[1] * 9, [0] * 3 + [1] * 6, [0] * 7 + [1] * 2]
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def tf():
    return importlib.import_module("tensorflow")


@pytest.fixture(scope="module")
def keras():
    return importlib.import_module("keras")


@pytest.fixture(autouse=True)
def the_same_dropout_every_time(keras):
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="module")
def reference():
    """transformers, with its TensorFlow classes."""
    return importlib.import_module("transformers")


def made(family, task):
    """A torch model in which every part affects the outputs."""
    torch.manual_seed(0)
    model = TASKS[task].from_config(AutoConfig({"model_type": family}, SIZES)).eval()
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def ours(task):
    return getattr(trainer, f"TF{CLASSES[task]}")


def batch(task, mask):
    """Inputs and labels as numpy arrays."""
    rng = np.random.default_rng(0)
    mask = np.array(mask)
    if task == "multiple_choice":
        mask = np.stack([mask, mask[::-1]], axis=1)
    ids = np.where(mask, rng.integers(5, 99, mask.shape), 1)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if task in ("masked_lm", "token_classification"):
        labels = np.where(mask, rng.integers(0, 2, mask.shape), -100)
        labels[0, :4] = -100
        inputs["labels"] = labels
    elif task == "question_answering":
        inputs |= {"start_positions": np.array([0, 3, 2]), "end_positions": np.array([4, 3, 8])}
    elif task != "base":
        inputs["labels"] = np.array([1, 0, 1])
    return inputs


def tensors(inputs, make):
    return {name: make(value) for name, value in inputs.items()}


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def at_tokens(name, value, mask):
    """A field's tensors as arrays, with zeros at pads as in our models."""
    arrays = [np.asarray(each) for each in (value if isinstance(value, tuple) else (value,))]
    mask = mask.reshape(-1, mask.shape[-1])
    if name == "attentions":
        return [array * mask[:, None, :, None] for array in arrays]
    per_token = arrays[0].shape[:2] == mask.shape and name != "loss"
    return (
        [array * mask.reshape(*mask.shape, *[1] * (array.ndim - 2)) for array in arrays]
        if (per_token)
        else arrays
    )


@pytest.mark.parametrize(("family", "task"), CASES)
def test_both_read_both_and_agree(family, task, tmp_path, tf, reference):
    model = made(family, task)
    model.save_pretrained(tmp_path / "ours", format="tf")
    theirs, loading = getattr(reference, f"TF{CLASSES[task]}").from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    missing = [name for name in loading["missing_keys"] if not name.startswith("dropout_")]
    assert not missing and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    theirs.save_pretrained(tmp_path / "theirs")
    assert same(TASKS[task].from_pretrained(tmp_path / "theirs", from_tf=True), model)
    twin = ours(task).from_pretrained(tmp_path / "theirs")
    full = [[1] * 9] * 3
    # The reference's spans are a softmax over pads as well, so they are compared without.
    for mask in (full,) if task == "question_answering" else (full, RIGHT, LEFT):
        inputs = batch(task, mask)
        options = {"output_hidden_states": True, "output_attentions": True}
        expected = theirs(tensors(inputs, tf.constant), **options)
        found = twin(tensors(inputs, tf.constant), **options)
        # TFRobertaForMultipleChoice ignores the request.
        assert {"logits", "loss"} <= set(expected) or set(expected) == set(found.keys())
        for name, value in expected.items():
            pairs = zip(
                at_tokens(name, found[name], inputs["attention_mask"]),
                at_tokens(name, value, inputs["attention_mask"]),
                strict=True,
            )
            for one, other in pairs:
                np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE, err_msg=name)


def test_flags_of_a_call_override_the_config(tmp_path):
    model = made("bert", "sequence_classification")
    model.config.update({"output_hidden_states": True, "output_attentions": True})
    model.save_pretrained(tmp_path)
    twin = ours("sequence_classification").from_pretrained(tmp_path, from_pt=True)
    inputs, traces = batch("sequence_classification", RIGHT), {"hidden_states", "attentions"}
    assert traces <= set(twin(inputs).keys())
    found = twin(inputs, output_hidden_states=False, output_attentions=False)
    assert not traces & set(found.keys())


@pytest.mark.parametrize(("family", "task"), CASES)
def test_keras_is_torch(family, task, tmp_path, tf):
    model = made(family, task)
    model.save_pretrained(tmp_path)
    twin = ours(task).from_pretrained(tmp_path, from_pt=True)
    for mask in (RIGHT, LEFT):
        inputs = batch(task, mask)
        if task in ("masked_lm", "token_classification"):
            inputs["labels"][inputs["attention_mask"] == 0] = 1  # a pad's label does not count
        options = {"output_hidden_states": True, "output_attentions": True}
        with torch.no_grad():
            expected = model(**tensors(inputs, torch.from_numpy), **options)
        found = twin(inputs, **options)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            flat = value if isinstance(value, tuple) else (value,)
            twins = found[name] if isinstance(value, tuple) else (found[name],)
            for one, other in zip(twins, flat, strict=True):
                if name == "loss":
                    one = np.mean(one)
                    if task == "question_answering":
                        continue  # its positions on pads: test_spans_leave_pads_out_as_in_torch
                np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE, err_msg=name)
    twin.save_pretrained(tmp_path / "again")
    assert same(TASKS[task].from_pretrained(tmp_path / "again"), model)


@pytest.mark.parametrize("family", FAMILIES)
def test_shards_go_both_ways(family, tmp_path, reference):
    model = made(family, "sequence_classification")
    model.save_pretrained(tmp_path / "ours", "20KB", format="tf")
    theirs = reference.TFAutoModelForSequenceClassification.from_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "tf_model.h5.index.json").is_file()
    read = AutoModelForSequenceClassification.from_pretrained(tmp_path / "theirs", from_tf=True)
    assert same(read, model)


PROBLEMS = {
    "regression": (1, np.array([0.5, -1.0, 2.0], np.float32)),
    "multi_label_classification": (3, np.array([[0, 1, 1], [1, 0, 0], [1, 1, 1]], np.float32)),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_losses_of_other_problems_are_those_of_torch(problem):
    num_labels, labels = PROBLEMS[problem]
    config = AutoConfig({"model_type": "bert"}, {**SIZES, "num_labels": num_labels})
    torch.manual_seed(0)
    twin = ours("sequence_classification").from_config(config)
    inputs = {**batch("base", RIGHT), "labels": labels}
    losses = twin(inputs).loss
    assert losses.shape == (3,)
    expected = twin.to_torch()(**tensors(inputs, torch.from_numpy)).loss
    np.testing.assert_allclose(np.mean(losses), expected.item(), rtol=1e-6)


def test_spans_leave_pads_out_as_in_torch():
    twin = ours("question_answering").from_config(AutoConfig({"model_type": "bert"}, SIZES))
    inputs = batch("question_answering", RIGHT)
    inputs["start_positions"] = np.array([0, 3, 1])
    inputs["end_positions"] = np.array([4, 3, 1])
    expected = twin.to_torch()(**tensors(inputs, torch.from_numpy)).loss
    np.testing.assert_allclose(np.mean(twin(inputs).loss), expected.item(), rtol=1e-6)
    inputs["end_positions"] = np.array([-100, 8, 8])  # no label, and two labels of pads
    halves = 2 * np.asarray(twin(inputs).loss)
    del inputs["end_positions"]
    start = twin.to_torch()(
        **tensors({**inputs, "end_positions": inputs["start_positions"]}, torch.from_numpy)
    )
    mask = np.where(inputs["attention_mask"], 0, -np.inf)
    scores = torch.log_softmax(start.start_logits + torch.from_numpy(mask), -1)
    wanted = -scores[torch.arange(3), torch.tensor([0, 3, 1])].detach().numpy()
    np.testing.assert_allclose(halves, wanted, rtol=1e-5)


def test_the_tours_losses(tf):
    from trainer.interop.tensorflow_losses import class_losses

    logits = tf.constant([[-4.0833, 4.3364], [0.0818, -0.0418]])
    losses = class_losses(logits, tf.constant([1, 0])).numpy()
    assert [f"{loss:.2g}" for loss in losses] == ["0.00022", "0.63"]
    assert f"{losses[1]:.4f}" == "0.6333"
    assert f"{losses.mean():.4f}" == "0.3167"
    chances = tf.nn.softmax(logits).numpy()
    assert [f"{chance:.5f}" for chance in chances.flat] == [
        "0.00022",
        "0.99978",
        "0.53086",
        "0.46914",
    ]


def examples(task="sequence_classification"):
    rng = np.random.default_rng(1)
    ids = rng.integers(5, 99, (10, 9))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}, rng.integers(0, 2, 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_five_steps_then_torch(family, tmp_path, tf, keras):
    made(family, "sequence_classification").save_pretrained(tmp_path / "start")
    twin = ours("sequence_classification").from_pretrained(tmp_path / "start")
    optimizer, (inputs, labels) = keras.optimizers.Adam(1e-3), examples()
    before = np.mean(twin({**inputs, "labels": labels}).loss)
    for _ in range(5):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(twin({**inputs, "labels": labels}, training=True).loss)
        gradients = tape.gradient(loss, twin.trainable_variables)
        assert all(gradient is not None for gradient in gradients)
        optimizer.apply_gradients(zip(gradients, twin.trainable_variables, strict=True))
    assert np.mean(twin({**inputs, "labels": labels}).loss) < before
    for kind in ("safetensors", "tf"):
        twin.save_pretrained(tmp_path / kind, format=kind)
        again = AutoModelForSequenceClassification.from_pretrained(
            tmp_path / kind, from_tf=kind == "tf"
        )
        assert same(again, twin.to_torch())
        with torch.no_grad():
            logits = again(**tensors(inputs, torch.from_numpy)).logits
        np.testing.assert_allclose(twin(inputs).logits, logits, rtol=0, atol=TOLERANCE)


def test_one_step_is_torchs_step(tf, keras):
    """Equal gradients: plain SGD without dropout moves both models to the same weights."""
    off = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    torch.manual_seed(0)
    config = AutoConfig({"model_type": "distilbert"}, {**SIZES, **off})
    twin = ours("sequence_classification").from_config(config)
    model, (inputs, labels) = twin.to_torch().train(), examples()
    model(**tensors({**inputs, "labels": labels}, torch.from_numpy)).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    twin.compile(keras.optimizers.SGD(0.5))
    twin.fit(inputs, labels, batch_size=10, epochs=1, shuffle=False, verbose=0)
    moved = dict(twin.to_torch().named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter, moved[name], rtol=0, atol=1e-6), name


def test_fit_evaluate_predict(keras):
    twin = ours("sequence_classification").from_config(AutoConfig({"model_type": "bert"}, SIZES))
    inputs, labels = examples()
    own = float(np.mean(twin({**inputs, "labels": labels}).loss))
    twin.compile(keras.optimizers.Adam(1e-3), metrics=["accuracy"])
    loss, accuracy = twin.evaluate(inputs, labels, batch_size=10, verbose=0)
    assert loss == pytest.approx(own, rel=1e-5)
    among_inputs = twin.evaluate({**inputs, "labels": labels}, batch_size=10, verbose=0)
    assert among_inputs == pytest.approx([loss, accuracy])
    predicted = twin.predict(inputs, batch_size=4, verbose=0)
    assert accuracy == pytest.approx(np.mean(predicted.logits.argmax(-1) == labels))
    history = twin.fit(inputs, labels, batch_size=4, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_a_compiled_loss_gets_the_logits(keras):
    twin = ours("sequence_classification").from_config(AutoConfig({"model_type": "bert"}, SIZES))
    inputs, labels = examples()
    own = float(np.mean(twin({**inputs, "labels": labels}).loss))
    twin.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    assert twin.evaluate(inputs, labels, batch_size=10, verbose=0) == pytest.approx(own, rel=1e-5)


def test_fit_on_spans_and_tokens(keras):
    inputs, labels = examples()
    spans = ours("question_answering").from_config(AutoConfig({"model_type": "bert"}, SIZES))
    spans.compile(keras.optimizers.Adam(1e-2))
    positions = {"start_positions": labels, "end_positions": labels + 1}
    history = spans.fit(inputs, positions, epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    tokens = ours("token_classification").from_config(AutoConfig({"model_type": "bert"}, SIZES))
    tokens.compile(keras.optimizers.Adam(1e-2))
    history = tokens.fit(inputs, np.repeat(labels[:, None], 9, 1), epochs=3, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]


def test_a_tf_function_may_return_the_outputs(tf):
    twin = ours("base").from_config(AutoConfig({"model_type": "roberta"}, SIZES))
    inputs = tensors(batch("base", RIGHT), tf.constant)
    traced = tf.function(lambda given: twin(given, output_hidden_states=True))(inputs)
    assert traced.keys() == ["last_hidden_state", "pooler_output", "hidden_states"]
    plain = twin(inputs)
    np.testing.assert_allclose(traced.last_hidden_state, plain.last_hidden_state, atol=TOLERANCE)
    as_tuple = twin(inputs, return_dict=False)
    np.testing.assert_array_equal(as_tuple[0], plain[0])


@pytest.mark.parametrize("from_pt", [False, True])
def test_safetensors_are_preferred_and_h5_is_read_where_there_are_none(tmp_path, from_pt):
    one, other = made("bert", "base"), made("bert", "base")
    other.body.pooler.dense.bias.data += 1
    one.save_pretrained(tmp_path, format="tf")
    assert same(ours("base").from_pretrained(tmp_path, from_pt=from_pt).to_torch(), one)
    other.save_pretrained(tmp_path)
    assert same(ours("base").from_pretrained(tmp_path, from_pt=from_pt).to_torch(), other)


def test_real_weights_agree(minilm):
    twin = ours("base").from_pretrained(minilm)
    inputs = batch("base", RIGHT)
    with torch.no_grad():
        expected = twin.to_torch()(**tensors(inputs, torch.from_numpy))
    np.testing.assert_allclose(
        twin(inputs).last_hidden_state, expected.last_hidden_state, rtol=0, atol=TOLERANCE
    )


IDS = np.full((2, 5), 7)
REFUSED = {
    "input_ids: missing": {"input_ids": None, "attention_mask": IDS},
    "input_ids: found 99; accepted: 0 to 98": {"input_ids": IDS + 92},
    "input_ids: found float64 (2, 5); accepted: int64 or int32": {"input_ids": IDS * 1.0},
    "input_ids: found a sequence of 25 tokens; accepted: up to 24": {"input_ids": IDS[:, [0] * 25]},
    "attention_mask: found shape (2, 4)": {"attention_mask": IDS[:, :4]},
    "attention_mask: row 1 masks every token": {"attention_mask": [[1] * 5, [0] * 5]},
    "token_type_ids: found 7; accepted: 0 to 1": {"token_type_ids": IDS},
    "position_ids: found 24; accepted: 0 to 23": {"position_ids": IDS + 17},
    "label: not an input of this model": {"label": IDS},
    "labels: found 2; accepted: 0 to 1, or -100": {"labels": np.array([0, 2])},
    "labels: found int64 (3,); accepted: int64 or int32 (2,)": {"labels": np.array([0, 1, 1])},
    "labels: found shape (2,); accepted: (2, 2)": {"labels": np.array([0.5, 1.0])},
}


def test_a_family_without_keras_layers():
    entries = {"model_type": "modernbert", "pad_token_id": 0}
    with pytest.raises(InputError, match="there is no Keras layer for ModernEncoder"):
        ours("base").from_config(AutoConfig(entries, SIZES))


@pytest.fixture(scope="module")
def small():
    return ours("sequence_classification").from_config(AutoConfig({"model_type": "bert"}, SIZES))


@pytest.mark.parametrize("message", REFUSED)
def test_bad_input_is_one_line(message, small):
    with pytest.raises(InputError) as caught:
        small({"input_ids": IDS, **REFUSED[message]})
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_another_backend_of_keras_is_refused(monkeypatch, keras):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match="Keras runs on jax; accepted: tensorflow"):
        ours("base").from_config(AutoConfig({"model_type": "bert"}, SIZES))
