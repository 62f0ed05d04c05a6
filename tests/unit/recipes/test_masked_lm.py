"""Masked language modeling: samples, masks over epochs and evaluations, and transformers' loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.masked_lm import MaskedLM
from tests.unit.text_runs import CASES, TEXTS, wordpiece
from trainer.errors import InputError
from trainer.tasks.losses import next_token_loss
from trainer.tokenizer import Tokenizer

BLOCKS, TEXTS_CASE = CASES["masked blocks, bert"], CASES["masked texts, adapters"]


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 1},
        {"unit": "letters"},
        {"mask_probability": 0.0},
        {"mask_probability": 1.5},
        {"masked_share": 0.8, "random_share": 0.3},
        {"masked_share": -0.1},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"recipe.{next(iter(options))}"):
        MaskedLM(**options)


def test_a_tokenizer_without_a_mask_is_refused() -> None:
    with pytest.raises(InputError, match="no mask token"):
        MaskedLM().prepare(Tokenizer.train(["hello"] * 3, vocab_size=300, kind="gpt2"))


def test_blocks_hold_all_tokens_and_documents_stay_whole() -> None:
    ids = wordpiece()([row["text"] for row in TEXTS])["input_ids"]
    table: Any = BLOCKS.trainer().train_samples
    assert table.input_ids.tolist() == [token for row in ids for token in row]
    assert set(table.lengths[:-1]) == {24}
    table = TEXTS_CASE.trainer().train_samples
    ids += ids[2:6]
    assert [length for length in table.lengths] == [min(40, len(row)) for row in ids]
    assert table.counts["truncated"] == sum(len(row) > 40 for row in ids)


def test_every_epoch_hides_other_tokens_and_every_evaluation_the_same() -> None:
    table: Any = BLOCKS.trainer().train_samples
    everything = range(len(table))
    first, again, other, seed = (
        table.collate(everything, seed, epoch)
        for seed, epoch in ((42, 0), (42, 0), (42, 1), (43, 0))
    )
    assert torch.equal(first.input_ids, again.input_ids)
    for changed in (other, seed):
        assert not torch.equal(first["labels"], changed["labels"])
    evaluated = table.collate(everything)
    assert torch.equal(evaluated["labels"], table.collate(everything, seed=9)["labels"])
    kept = evaluated["labels"] == -100
    original = torch.from_numpy(table.input_ids).long()
    assert torch.equal(evaluated.input_ids[kept], original[kept])
    assert torch.equal(evaluated["labels"][~kept], original[~kept])
    parts = [table.collate([sample], 42, 1) for sample in everything]
    assert torch.equal(torch.cat([part["labels"] for part in parts]), other["labels"])


def test_perplexity_is_the_same_for_any_batch_size() -> None:
    found = [
        BLOCKS.trainer(max_tokens_per_micro_batch=tokens).evaluate() for tokens in (24, 60, 9999)
    ]
    assert found[0]["eval_perplexity"] == pytest.approx(np.exp(found[0]["eval_loss"]))
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-12)


def test_loss_and_gradients_are_those_of_transformers(tmp_path: Path) -> None:
    """With equal masks, in float64, padded there and flat here; and the counts of its collator."""
    transformers = pytest.importorskip("transformers")
    run = BLOCKS.trainer()
    model: Any = run.model.eval()
    model.save_pretrained(tmp_path)
    peer = transformers.BertForMaskedLM.from_pretrained(tmp_path).double().eval()
    table: Any = run.train_samples
    batch = table.collate(range(len(table)), 42, 0)
    sums, counts = run.recipe.loss(model(**batch.inputs()), batch)
    loss = sums / counts
    loss.backward()
    lengths = batch.sequence_lengths.tolist()
    padded = [
        torch.nn.utils.rnn.pad_sequence(part.split(lengths), True, value)
        for part, value in ((batch.input_ids, 0), (batch["labels"], -100))
    ]
    seen = torch.nn.utils.rnn.pad_sequence([torch.ones(n) for n in lengths], True)
    wanted = peer(input_ids=padded[0], attention_mask=seen, labels=padded[1]).loss
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    norms = [torch.stack([p.grad.norm() for p in m.parameters()]).norm() for m in (model, peer)]
    assert norms[0].item() == pytest.approx(norms[1].item(), rel=1e-6)


def test_the_loss_without_logits_is_that_of_logits() -> None:
    """Value, gradients and correct predictions, with the head's bias, in float64."""
    model: Any = BLOCKS.model().eval()
    torch.nn.init.normal_(model.head.bias)
    table: Any = BLOCKS.trainer().train_samples
    batch = table.collate(range(5), 42, 0)
    found = []
    for smoothing in (0.0, 0.1):
        outputs = model(**batch.inputs())
        losses = next_token_loss(outputs.projection, batch["labels"], label_smoothing=smoothing)
        logits = model(**batch.inputs()).logits
        direct = torch.nn.functional.cross_entropy(
            logits, batch["labels"], label_smoothing=smoothing, reduction="sum"
        )
        pair = [
            torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])
            for loss in (losses.sum, direct)
        ]
        assert losses.sum.item() == pytest.approx(direct.item(), rel=1e-12)
        assert (pair[0] - pair[1]).norm() <= 1e-12 * pair[1].norm()
        asked = batch["labels"] != -100
        assert torch.equal(losses.correct & asked, (logits.argmax(-1) == batch["labels"]) & asked)
        found.append(losses.sum.item())
    assert found[0] != found[1]
