"""Token ids: generates the ids that follow prompts, from `GenerationSettings` or a plan."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.generation.assisted import extend_with_drafts
from trainer.generation.beam_search import BeamOptions, search_beams
from trainer.generation.decoding import Decoding, is_encoder_decoder
from trainer.generation.extending import extend
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.growing_texts import Source
from trainer.generation.hub_settings import HubSettings, forced_entries
from trainer.generation.outputs import GenerateOutput
from trainer.generation.plan import Plan
from trainer.generation.setting_checks import check_batch
from trainer.generation.settings import GenerationSettings
from trainer.models.formats.generation_config import model_end_ids


def generate_ids(
    model: GenerativeModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings | None = None,
    end_ids: Collection[int] | None = None,
) -> list[list[int]]:
    """The generated ids that follow each prompt, up to and including a token of `end_ids`.

    `model` is a causal language model, or an encoder-decoder whose encoder reads the prompts.
    `end_ids` default to the model's eos tokens. With num_return_sequences, the results of a prompt
    are adjacent. The result for a prompt does not depend on other prompts, but sampling depends on
    the prompt's index. `settings.stop` is ignored, since it needs a tokenizer: use
    `trainer.generation.text.generate` for it.
    """
    settings = settings or GenerationSettings()
    prompts = [prompt for prompt in prompts for _ in range(settings.copies)]
    found: list[list[int]] = []
    for start in range(0, len(prompts), settings.batch_size):
        part = prompts[start : start + settings.batch_size]
        if settings.is_plain:
            found += _plain(model, part, settings, end_ids, start)
        else:
            found += ruled_ids(model, part, settings, end_ids, start)
    return found


def ruled_ids(
    model: GenerativeModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    end_ids: Collection[int] | None,
    first: int,
    tokenizer: Any = None,
) -> list[list[int]]:
    """The generated ids of one batch, for settings such as beams that `Decoding` does not support.

    `first` is the index of the batch's first prompt among all prompts. With a tokenizer,
    `settings.stop` also ends texts.
    """
    ends = model_end_ids(model) if end_ids is None else end_ids
    ids, mask = _grid(prompts, model.device)
    options = {**forced_entries(model), **settings.hub_options(), "eos_token_id": list(ends)}
    if tokenizer is not None and settings.stop:
        options |= {"stop_strings": settings.stop, "tokenizer": tokenizer}
    plan = plan_of(model, HubSettings(**options), ids, mask, settings.seed, first)
    found = run(plan)
    assert found.sequences is not None and found.lengths is not None
    new = found.sequences[:, plan.ids.shape[1] :].tolist()
    return [row[:length] for row, length in zip(new, found.lengths.tolist(), strict=True)]


def plan_of(
    model: GenerativeModel,
    settings: HubSettings,
    ids: Tensor,
    mask: Tensor,
    seed: int,
    first: int = 0,
) -> Plan:
    """The plan for the prompts `ids` [B, L]; in an encoder-decoder, the encoder reads them."""
    if not is_encoder_decoder(model):
        return Plan(model, settings, ids, mask, seed, first=first)
    check_batch(settings, "decoder_input_ids", "decoder_attention_mask", len(ids))
    begun = _start_tokens(ids, settings.decoder_start_token_id, model.start_id)
    seen = torch.ones_like(begun, dtype=torch.bool)
    if settings.decoder_input_ids is not None:
        given, given_mask = settings.decoder_input_ids, settings.decoder_attention_mask
        given = given.to(ids.device)
        given_mask = torch.ones_like(given) if given_mask is None else given_mask.to(ids.device)
        if bool((given[:, :1] == begun).all()):
            begun, seen = given, given_mask != 0
        else:
            begun = torch.cat((begun, given), 1)
            seen = torch.cat((seen, given_mask != 0), 1)
    return Plan(model, settings, begun, seen, seed, Source(ids, mask), first)


def _start_tokens(ids: Tensor, given: int | Sequence[int] | None, own: int) -> Tensor:
    """The decoder's first token of each text [B, 1]: one for all, or one for each prompt."""
    if given is None or isinstance(given, int):
        return ids.new_full((len(ids), 1), own if given is None else given)
    if len(given) != len(ids):
        accepted = f"one token, or one for each of the {len(ids)} prompts"
        raise InputError(f"decoder_start_token_id: found {len(given)}; accepted: {accepted}")
    return ids.new_tensor(list(given)).unsqueeze(1)


def run(plan: Plan) -> GenerateOutput:
    """Generate the texts of a plan, with the kind of search that its settings select."""
    if plan.settings.num_beams > 1:
        return _search(plan)
    return extend_with_drafts(plan) if plan.settings.drafts else extend(plan)


def _search(plan: Plan) -> GenerateOutput:
    s = plan.settings
    options = BeamOptions(
        s.num_beams,
        s.num_return_sequences,
        plan.max_length,
        length_penalty=s.length_penalty,
        early_stopping=s.early_stopping,
        sampled=s.do_sample,
        num_ends=len(plan.ends),
        pad=plan.pad,
    )
    seeds = [plan.of_row(row, plan.first + row).own_seed for row in range(len(plan.ids))]
    keep = s.return_dict_in_generate and (s.output_scores or s.output_logits)
    texts, rules = plan.texts(s.num_beams), plan.rules(s.num_beams)
    found = search_beams(texts, rules, plan.stops(), options, seeds if s.do_sample else (), keep)
    return GenerateOutput(
        found.ids,
        found.scores,
        scores=tuple(found.steps) if s.output_scores and keep else None,
        logits=tuple(found.logits) if s.output_logits and keep else None,
        beam_indices=found.beams,
        lengths=(found.beams >= 0).sum(1),
    )


def _plain(
    model: GenerativeModel,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    end_ids: Collection[int] | None,
    first: int,
) -> list[list[int]]:
    """The generated ids of one batch, by `Decoding`; finished texts are removed from the batch."""
    found: dict[int, list[int]] = {first + row: [] for row in range(len(prompts))}
    decoding = Decoding(model, dict(enumerate(prompts, first)), settings, end_ids)
    while decoding.rows:
        for row, token in decoding.step().items():
            found[row].append(token)
    return list(found.values())


def _grid(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompts as ids [B, L], padded on the left, and their mask [B, L] bool."""
    for row, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompt {row}: found 0 tokens; accepted: 1 or more")
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.int64)
    mask = torch.zeros(len(prompts), width, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = True
    return ids.to(device), mask.to(device)
