"""`model.generate()`: takes padded ids and returns texts as ids, as in transformers."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trainer.errors import InputError
from trainer.generation.decoding import is_encoder_decoder
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.hub_settings import HubSettings, read_settings
from trainer.generation.outputs import GenerateOutput
from trainer.generation.plan import Plan
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids, plan_of, run
from trainer.models.input_checks import require_tensors


def generate_from_tensors(
    model: GenerativeModel,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    options: Mapping[str, Any],
) -> Tensor | GenerateOutput:
    """Generate texts from the prompts `input_ids` [B, L], with transformers' settings.

    Returns the prompts with their continuations [N, L + n], where N is B times
    num_return_sequences. For an encoder-decoder, returns the decoder's tokens [N, n], including the
    start token. Rows that end early are padded with the pad token, or with an end token if there is
    no pad token. Without input_ids, a text starts with the bos token. Raises InputError for invalid
    or unsupported settings.
    """
    settings = read_settings(model, options)
    ids, mask = _prompts(model, settings, input_ids, attention_mask)
    seed = settings.seed
    if seed is None:  # then sampling depends on torch's generator, as in transformers
        seed = int(torch.randint(2**62, ())) if settings.do_sample else 0
    plan = plan_of(model, settings, ids, mask, seed)
    if not settings.return_dict_in_generate and _is_plain(plan):
        return _plain(plan, options.get("batch_size"))
    found = run(plan)
    return found if settings.return_dict_in_generate else found.sequences  # type: ignore[return-value]


def _prompts(
    model: GenerativeModel,
    settings: HubSettings,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The ids of the prompts [B, L] and their mask [B, L] bool.

    Without `attention_mask`, pads are detected as in transformers.
    """
    if input_ids is None:
        bos = settings.bos_token_id
        bos = model.config.bos_token_id if bos is None else bos
        if bos is None:
            raise InputError("input_ids: found none, and no bos_token_id; accepted: ids [B, L]")
        input_ids = torch.tensor([[bos]], device=model.device)
    require_tensors({"input_ids": input_ids, "attention_mask": attention_mask}, "generate")
    if input_ids.dim() == 1:
        input_ids = input_ids.unsqueeze(0)
    if input_ids.dim() != 2 or not len(input_ids):
        shape = tuple(input_ids.shape)
        wanted = "(prompts, tokens), at least one prompt"
        raise InputError(f"input_ids: found shape {shape}; accepted: {wanted}")
    ids = input_ids.to(model.device)
    if attention_mask is not None:
        own = attention_mask.unsqueeze(0) if attention_mask.dim() == 1 else attention_mask
        if own.shape != ids.shape:
            found, accepted = tuple(attention_mask.shape), tuple(ids.shape)
            raise InputError(f"attention_mask: found shape {found}; accepted: {accepted}")
        mask = own.to(model.device) != 0
    else:
        pad = settings.pad_token_id
        pad = model.config.pad_token_id if pad is None else pad
        known = pad is not None and pad not in settings.end_ids(model)
        mask = ids != pad if known else torch.ones_like(ids, dtype=torch.bool)
    empty = (~mask.any(1)).nonzero().flatten().tolist()
    if empty:
        raise InputError(f"prompt {empty[0]}: found 0 tokens; accepted: 1 or more")
    return ids, mask


def _is_plain(plan: Plan) -> bool:
    """Whether `Decoding`, which removes finished texts from the batch, supports the plan."""
    settings, others = plan.settings, []
    if is_encoder_decoder(plan.model):
        own = plan.model.forced_tokens
        forced = (settings.forced_bos_token_id, settings.forced_eos_token_id)
        if forced == (own.get(0), own.get(-1)):
            others = ["forced_bos_token_id", "forced_eos_token_id"]
        if settings.decoder_start_token_id == plan.model.start_id:
            others.append("decoder_start_token_id")
    return settings.is_plain(*others)


def _plain(plan: Plan, batch_size: int | None) -> Tensor:
    s, source = plan.settings, plan.source
    drawing = {"temperature": s.temperature, "top_k": s.top_k or None, "top_p": s.top_p}
    settings = GenerationSettings(
        max_new_tokens=plan.new_tokens,
        repetition_penalty=s.repetition_penalty,
        seed=plan.seed,
        **({**drawing, "min_p": s.min_p} if s.do_sample else {}),  # type: ignore[arg-type]
    )
    if batch_size is not None:
        settings = replace(settings, batch_size=batch_size)
    ids, mask = (plan.ids, plan.mask) if source is None else (source.ids, source.mask)
    prompts = [row[seen].tolist() for row, seen in zip(ids, mask, strict=True)]
    new = generate_ids(plan.model, prompts, settings, plan.ends)
    grid = plan.ids.new_full((len(new), max(map(len, new))), plan.pad)
    for row, found in zip(grid, new, strict=True):
        row[: len(found)] = torch.tensor(found)
    return torch.cat((plan.ids, grid), 1)
