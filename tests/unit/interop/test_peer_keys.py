"""Every setting in the tables for other programs has an answer, and every key of ours exists."""

from inspect import signature
from typing import Any

import pytest
from peft import LoraConfig
from transformers import BitsAndBytesConfig, Seq2SeqTrainingArguments

from trainer.config.groups import CONFIGS
from trainer.config.known_keys import OPEN_KINDS, fixed_keys, open_keys
from trainer.config.option_files import groups
from trainer.config.peer_names import unknown_key
from trainer.interop.peer_keys import OTHER_MEANINGS, PROGRAMS, keys_of_program
from trainer.peer_names import FURTHER_WORDS, PEER_NAMES, answer_for
from trainer.peer_reasons import FAMILIES, NOT_HERE, NOTHING_TO_SET


def our_keys() -> set[str]:
    keys = [*fixed_keys(), *(key for group in OPEN_KINDS for key in open_keys(group, [CONFIGS]))]
    return {*groups([CONFIGS]), *(key.name for key in keys)}


def test_every_key_of_ours_exists() -> None:
    known = our_keys()
    assert {ours for ours in PEER_NAMES.values() if ours not in known} == set()
    for program, names in PROGRAMS.items():
        assert len(names) == len(set(names)) and set(OTHER_MEANINGS[program]) <= set(names)
        rows = list(keys_of_program(program))
        assert [row.name for row in rows] == list(names)
        assert [row.ours for row in rows if row.ours and row.ours not in known] == []
        assert all(row.ours or row.note for row in rows)


@pytest.mark.parametrize(
    "kind",
    [Seq2SeqTrainingArguments, BitsAndBytesConfig, LoraConfig],
    ids=lambda kind: kind.__name__,
)
def test_every_argument_of_a_peer_is_accepted_or_answered(kind: type[Any]) -> None:
    """In one line: our key, or why there is none."""
    known = {key.rpartition(".")[2] for key in our_keys()}
    names = signature(kind).parameters.keys() - {"kwargs", "args"}
    assert len(names) > 9
    unanswered = {name for name in names if name not in known and not answer_for(name)}
    assert unanswered == set()
    for name in names - known:
        line = str(unknown_key("dataset", name, ["train"]))
        assert "here" in line and "\n" not in line and len(line) < 240, line


# of TRL 1.16, LLaMA-Factory 0.9.5 and axolotl 0.19: names that other tables do not have
FURTHER = {
    "recipe.max_length": "max_completion_length max_prompt_len model_max_length sequence_len",
    "dataset.columns": "field_instruction field_output field_messages",
    "dataset.train": "dataset_train_split pretraining_dataset data_files split",
    "dataset.shuffle_window": "buffer_size streaming_multipack_buffer_size",
    "recipe.objective": "loss_type pref_loss",
    "recipe.nll_weight": "rpo_alpha pref_ftx",
    "callbacks.wandb.options": "wandb_entity wandb_mode",
    "launch.context_parallel": "sequence_parallel_degree cp_size",
    "push.repo": "export_hub_model_id hub_model_id",
    "no setting": "vllm_mode galore_rank fsdp_version epsilon_high ppo_epochs image_size plugins",
    "nothing to set": "packing_strategy xformers_attention hf_hub_token eot_tokens",
}


def test_names_in_configs_of_trl_llama_factory_and_axolotl_are_answered() -> None:
    found = {n: answer_for(n) for names in FURTHER.values() for n in names.split()}
    wrong = [
        n for answer, names in FURTHER.items() for n in names.split() if answer not in found[n]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("section", "key", "line"),
    [
        ("recipe", "image_sze", "recipe.image_sze: unknown key; did you mean 'recipe.image_size'?"),
        ("recipe", "reward_scal", "unknown key; did you mean 'recipe.reward_scale'?"),
        ("recipe", "image_seq_length", "no setting here: models read text"),
        ("trainer", "seeds", "trainer.seeds: unknown key; did you mean 'seed'?"),
        ("dataset", "seeds", "dataset.seeds: unknown key; did you mean 'dataset.seed'?"),
    ],
)
def test_a_misspelled_key_is_recognized(section: str, key: str, line: str) -> None:
    """Also in a recipe of the user's, whose keys begin like settings of other tools."""
    own = {"recipe": ["image_size", "image", "reward_scale", "max_length"], "dataset": ["seed"]}
    assert line in str(unknown_key(section, key, own.get(section, ["save_steps"])))


def test_no_name_is_a_key_of_ours() -> None:
    """Otherwise the right key in a wrong section would get the answer for another tool."""
    sections = ("trainer", "model", "dataset", "recipe", "launch", "tokenizer")
    own = {key.rpartition(".")[2] for key in our_keys() if key.partition(".")[0] in sections}
    answered = {*PEER_NAMES, *NOTHING_TO_SET, *NOT_HERE}
    assert own & answered == {
        "trust_remote_code",  # its answer names our key
        "early_stopping",  # that of training is asked for more often than that of a beam search
    }
    assert [name for name in own if name.startswith(tuple(FAMILIES))] == []


def test_no_name_has_two_answers() -> None:
    assert not PEER_NAMES.keys() & NOTHING_TO_SET.keys()
    assert not PEER_NAMES.keys() & NOT_HERE.keys() and not NOTHING_TO_SET.keys() & NOT_HERE.keys()
    assert set(FURTHER_WORDS) <= set(PEER_NAMES)
