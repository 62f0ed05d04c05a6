"""`generate` of encoder-decoders with transformers' settings gives transformers' results."""

import copy
from typing import Any

import pytest
import torch
import transformers

import trainer as ours
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids

IDS = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
CONFIGS = {
    "t5": transformers.T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4, **IDS
    ),
    "bart": transformers.BartConfig(
        **{"vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2},
        **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 37},
        **{"decoder_ffn_dim": 37, "max_position_embeddings": 64, "bos_token_id": 2},
        **{**IDS, "decoder_start_token_id": 1, "forced_eos_token_id": 1},
    ),
}


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(1)
    kind = transformers.AutoModelForSeq2SeqLM
    model = kind.from_config(copy.deepcopy(CONFIGS[request.param]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.25 * parameter.requires_grad)
    model.save_pretrained(folder)
    theirs = kind.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return ours.AutoModelForSeq2SeqLM.from_pretrained(folder), theirs.eval()


def sources() -> dict[str, torch.Tensor]:
    torch.manual_seed(5)
    ids, mask = torch.randint(3, 99, (3, 9)), torch.ones(3, 9, dtype=torch.int64)
    mask[1, 4:] = 0
    mask[2, 7:] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "max_length": {"max_new_tokens": None, "max_length": 7},
    "rules": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2, "bad_words_ids": [[5], [7, 9]]},
    "least length": {"min_new_tokens": 6, "eos_token_id": [1, 17, 40]},
    "encoder_repetition_penalty": {"encoder_repetition_penalty": 1.7},
    "encoder_no_repeat_ngram_size": {"encoder_no_repeat_ngram_size": 1},
    "forced tokens": {"forced_bos_token_id": 20, "forced_eos_token_id": 30},
    "first tokens suppressed": {"forced_bos_token_id": 20, "begin_suppress_tokens": [5, 60]},
    "decoder_start_token_id": {"decoder_start_token_id": 44},
    "decoder_start_token_id of each text": {"decoder_start_token_id": [44, 3, 0]},
    "decoder_input_ids": {"decoder_input_ids": torch.tensor([[8, 9], [10, 11], [12, 13]])},
    "prefix_allowed_tokens_fn": {
        "prefix_allowed_tokens_fn": lambda row, ids: [10 + row, 20 + len(ids) % 5, 30, 40]
    },
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "beams under rules": {"num_beams": 3, "no_repeat_ngram_size": 1, "length_penalty": 2.0},
    "beams that begin": {"num_beams": 2, "decoder_input_ids": torch.tensor([[8], [10], [12]])},
}


@pytest.mark.parametrize("case", CASES)
def test_written_tokens_are_the_same(pair: Any, case: str) -> None:
    options = {"max_new_tokens": 10, "do_sample": False, **CASES[case]}
    found = pair[0].generate(**sources(), **copy.deepcopy(options))
    expected = pair[1].generate(**sources(), **copy.deepcopy(options))
    assert found.shape == expected.shape
    for mine, other in zip(found.tolist(), expected.tolist(), strict=True):
        end = next((n for n, token in enumerate(mine) if n and token in (1, 17, 40)), len(mine))
        assert mine[: end + 1] == other[: end + 1]


@pytest.mark.parametrize("num_beams", [1, 3])
def test_recipes_force_the_tokens_of_the_config(pair: Any, num_beams: int) -> None:
    """As `forced_eos_token_id` of BART says: the last token of texts that were cut."""
    inputs, options = sources(), {"max_new_tokens": 5, "num_beams": num_beams}
    expected = pair[1].generate(**inputs, **options, do_sample=False)[:, 1:].tolist()
    prompts = [
        ids[mask].tolist()
        for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"] > 0, strict=True)
    ]
    for prompt, wanted in zip(prompts, expected, strict=True):
        (found,) = generate_ids(pair[0], [prompt], GenerationSettings(**options))
        assert found == wanted[: len(found)] and not any(wanted[len(found) :])


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"decoder_input_ids": [[8]] * 3}, "decoder_input_ids: found list; accepted: a tensor"),
        ({"decoder_input_ids": torch.ones(2, 1).long()}, r"decoder_input_ids: found shape \(2, 1"),
        ({"decoder_attention_mask": torch.ones(3, 2)}, "decoder_attention_mask: found shape"),
        ({"decoder_start_token_id": {8}}, "decoder_start_token_id: found set; accepted: an id"),
    ],
)
def test_first_tokens_that_do_not_fit_are_refused(
    pair: Any, settings: dict[str, Any], line: str
) -> None:
    with pytest.raises(InputError, match=f"^{line}"):
        pair[0].generate(**sources(), **settings)


def test_scores_attentions_and_hidden_states_are_the_same(pair: Any) -> None:
    inputs = {name: rows[:1] for name, rows in sources().items()}  # pads are zeros here
    wanted = {"output_attentions": True, "output_hidden_states": True, "output_scores": True}
    wanted |= {"return_dict_in_generate": True, "max_new_tokens": 5, "min_new_tokens": 4}
    found, expected = (model.generate(**inputs, **wanted) for model in pair)
    assert torch.equal(found.sequences, expected.sequences)
    names = ("decoder_attentions", "cross_attentions", "decoder_hidden_states")
    for name in ("scores", "encoder_attentions", "encoder_hidden_states"):
        for mine, other in zip(found[name], expected[name], strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
    for name in names:
        for mine_step, other_step in zip(found[name], expected[name], strict=True):
            for mine, other in zip(mine_step, other_step, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)
