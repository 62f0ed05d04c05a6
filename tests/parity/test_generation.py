"""Generation against transformers: greedy tokens, and each restriction of sampling."""

import pytest
import torch
import transformers
from transformers.generation import logits_process

from tests.parity import test_decoders
from tests.unit.text_runs import CASES, tokenizer
from trainer.generation.sampling import penalized, restricted
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids
from trainer.models.auto import AutoModelForCausalLM
from trainer.models.family import find_family
from trainer.models.formats import generation_config

WORDS, PAD, END = 99, 0, 2
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": END,
}
VARIANTS = {name: sizes for name, sizes in test_decoders.VARIANTS.items() if "," not in name}
SHARED = ("llama", "mistral", "qwen2", "qwen3", "gpt2")
"""The families in all tests; the others are only tested for greedy texts."""
LENGTHS = [11, 7, 1, 8]


@pytest.fixture(scope="module", params=SHARED)
def pair(request, tmp_path_factory):
    """(ours, theirs) with equal weights, large enough that no two words are equally probable."""
    return equal_models(request.param, tmp_path_factory.mktemp(request.param))


def equal_models(family, folder):
    names = find_family(family).synonyms
    sizes = {names.get(name, name): value for name, value in SIZES.items()}
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**VARIANTS[family], **sizes})
    theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.eval().save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder), theirs


def prompts():
    """Four prompts of different lengths, and the same prompts as a left-padded batch."""
    torch.manual_seed(1)
    rows = [torch.randint(3, WORDS, (length,)).tolist() for length in LENGTHS]
    ids = torch.tensor([[PAD] * (max(LENGTHS) - len(row)) + row for row in rows])
    return rows, {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@pytest.mark.parametrize(
    ("family", "penalty"), [*((name, 1.0) for name in VARIANTS), *((name, 1.7) for name in SHARED)]
)
def test_greedy_gives_the_same_tokens(family, penalty, tmp_path):
    """Prompts of different lengths in one call; some rows end early, at a common token."""
    ours, theirs = equal_models(family, tmp_path)
    _, batch = prompts()
    options = {"max_new_tokens": 30, "repetition_penalty": penalty}
    free = theirs.generate(**batch, **options, do_sample=False, eos_token_id=None)
    end = int(free[0, max(LENGTHS) + 6])
    theirs.generation_config.eos_token_id = ours.config.eos_token_id = end
    ours.generation_config = {}
    wanted = theirs.generate(**batch, **options, do_sample=False)
    theirs.generation_config.eos_token_id = END
    found = ours.generate(**batch, **options)
    ours.config.eos_token_id = END
    assert (wanted == PAD).sum() > (batch["input_ids"] == PAD).sum()
    assert torch.equal(found, wanted)


def test_a_row_does_not_depend_on_its_batch(pair):
    """Greedy or sampled, a row is the same alone, in a batch, and in consecutive batches."""
    ours, _ = pair
    rows, _ = prompts()
    for temperature in (0.0, 1.3):
        settings = {"max_new_tokens": 20, "temperature": temperature, "seed": 3}
        together = generate_ids(ours, rows, GenerationSettings(**settings))
        in_turn = generate_ids(ours, rows, GenerationSettings(**settings, batch_size=1))
        assert together == in_turn
        assert generate_ids(ours, rows[:1], GenerationSettings(**settings)) == together[:1]
    other = generate_ids(ours, rows, GenerationSettings(**{**settings, "seed": 4}))
    assert other != together


def test_a_text_ends_where_the_positions_do(pair):
    ours, _ = pair
    found = generate_ids(ours, [[5] * 60, [5]], GenerationSettings(max_new_tokens=100), end_ids=())
    assert [len(ids) for ids in found] == [64 - 60 + 1, 64]


RESTRICTIONS = [
    ({"top_k": 5}, [logits_process.TopKLogitsWarper(5)]),
    ({"top_k": 500}, []),
    ({"top_p": 0.7}, [logits_process.TopPLogitsWarper(0.7)]),
    ({"min_p": 0.2}, [logits_process.MinPLogitsWarper(0.2)]),
    (
        {"top_k": 20, "top_p": 0.8, "min_p": 0.1},
        [
            logits_process.TopKLogitsWarper(20),
            logits_process.TopPLogitsWarper(0.8),
            logits_process.MinPLogitsWarper(0.1),
        ],
    ),
]


@pytest.mark.parametrize(("options", "processors"), RESTRICTIONS)
def test_the_draws_are_restricted_as_there(options, processors):
    torch.manual_seed(0)
    scores = torch.randn(50, WORDS) * 2
    wanted = scores
    for processor in processors:
        wanted = processor(None, wanted)
    found = restricted(scores, GenerationSettings(temperature=1.0, **options))
    assert torch.equal(found, wanted)
    assert processors == [] or found.isinf().any()


def test_repeated_tokens_are_penalized_as_there():
    torch.manual_seed(0)
    ids, logits = torch.randint(WORDS, (8, 20)), torch.randn(8, WORDS)
    seen = torch.zeros(8, WORDS, dtype=torch.bool).scatter_(1, ids, True)
    wanted = logits_process.RepetitionPenaltyLogitsProcessor(1.4)(ids, logits)
    assert torch.equal(penalized(logits, seen, 1.4), wanted)


def test_what_a_run_saves_ends_there_where_it_ends_here(tmp_path):
    """The source's generation_config.json is kept and names the token that ends a chat turn."""
    run = CASES["chats, llama"].trainer(max_steps=1)
    turn = tokenizer().convert_tokens_to_ids("<|im_end|>")
    ids = tokenizer().apply_chat_template(
        [{"role": "user", "content": "why so?"}], add_generation_prompt=True, return_dict=False
    )
    free = generate_ids(run.model, [ids], GenerationSettings(max_new_tokens=12), end_ids=())[0]
    end = next(token for token in free[3:] if token != free[0])
    run.model.generation_config |= {"eos_token_id": [end, turn], "top_k": 7, "pad_token_id": None}
    run.save(tmp_path / "model")
    found = transformers.GenerationConfig.from_pretrained(tmp_path / "model")
    assert set(found.eos_token_id) == {end, turn, run.model.config.eos_token_id}
    assert (found.top_k, found.bos_token_id) == (7, run.model.config.bos_token_id)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    prompt = torch.tensor([ids])
    wanted = theirs.generate(prompt, do_sample=False, max_new_tokens=12)
    assert torch.equal(ours.generate(prompt, max_new_tokens=12), wanted)
    assert wanted[0, len(ids) :].tolist() == free[: free.index(end) + 1]


def test_what_the_makers_recommend_is_followed(tmp_path, caplog):
    config = transformers.LlamaConfig(**{**SIZES, "eos_token_id": None})
    torch.manual_seed(0)
    theirs = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    theirs.generation_config.update(repetition_penalty=1.7, max_new_tokens=9)
    theirs.save_pretrained(tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompt = torch.arange(5, 10).unsqueeze(0)
    wanted = theirs.generate(prompt)
    assert torch.equal(ours.generate(prompt), wanted) and wanted.shape[1] == 14
    assert not torch.equal(ours.generate(prompt, repetition_penalty=1.0), wanted)
    ours.generation_config |= {"do_sample": True, "temperature": 2.0, "top_k": 3, "top_p": 0.9}
    drawn = ours.generate(prompt, seed=1)
    chosen = {"temperature": 2.0, "top_k": 3, "top_p": 0.9, "do_sample": True}
    assert torch.equal(ours.generate(prompt, seed=1, **chosen), drawn)
    assert not torch.equal(drawn, wanted)
    assert torch.equal(ours.generate(prompt, do_sample=False), wanted)
    ours.generate(prompt, do_sample=False, temperature=0.7)
    assert "temperature has no effect without do_sample=True" in caplog.text


def test_every_entry_of_generation_config_is_followed_or_named(pair):
    ours, _ = pair
    kept = ours.generation_config
    known = set(transformers.GenerationConfig().to_dict())
    assert generation_config.NO_EFFECT - known <= {"chat_format"}
    try:
        for name in known - generation_config.NO_EFFECT - {"do_sample", *generation_config.ROLES}:
            ours.generation_config = {"do_sample": True, name: 7}
            named = generation_config.unsupported_entries(ours)
            assert (named == [name]) != (name in generation_config.recommended(ours)), name
    finally:
        ours.generation_config = kept
