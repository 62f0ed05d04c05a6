"""Lines: the text of an evaluation and of a logged row."""

from dataclasses import replace

from trainer.rendering.lines import by_set, evaluation_lines, training_line


def test_an_evaluation_of_one_set_is_one_line(facts):
    line = evaluation_lines(20, facts, {"eval_loss": 0.5, "eval_f1_macro": 0.25}, improved=True)
    assert line.plain == "eval  step  20  epoch 0.50  loss 0.5000  f1_macro 0.2500  best"


def test_named_sets_have_a_line_each(facts):
    facts = replace(facts, num_eval_samples={"a": 1, "longer": 1})
    results = {"eval_a_loss": 1.0, "eval_longer_loss": float("nan")}
    assert evaluation_lines(120, facts, results, improved=False).plain.split("\n") == [
        "eval  step 120  epoch 3.00",
        "      a       loss 1.0000",
        "      longer  loss -",
    ]


def test_a_key_belongs_to_the_longest_set_name_that_fits():
    results = {"eval_dev_loss": 1.0, "eval_dev_hard_loss": 2.0, "eval_loss": 3.0}
    found = by_set(results, ["dev", "dev_hard", ""])
    assert found == {"dev": {"loss": 1.0}, "dev_hard": {"loss": 2.0}, "": {"loss": 3.0}}


def test_a_training_row():
    row = {"step": 10, "epoch": 0.25, "loss": 1.5, "learning_rate": 2e-4, "tokens_per_second": 9.0}
    expected = "step  10/120  epoch 0.25  loss 1.5000  lr 2.0e-04  9 tokens/s"
    assert training_line(row, 120).plain == expected
    assert training_line(row | {"data_wait": 0.004}, 120).plain == expected
    waiting = training_line(row | {"data_wait": 0.123}, 120).plain
    assert waiting == f"{expected}  data wait 12 %"
