"""Text generation: continues prompts, as whole texts or as a stream of pieces."""

from collections.abc import Collection, Iterator, Sequence

from trainer.generation.decoding import Decoding, Past, is_encoder_decoder
from trainer.generation.generative_model import GenerativeModel
from trainer.generation.settings import GenerationSettings
from trainer.generation.stop_tokens import stop_token_ids
from trainer.generation.streaming import TextStreamer
from trainer.generation.token_ids import ruled_ids
from trainer.tokenizer import Tokenizer
from trainer.tokenizer.sources import ids_of_source
from trainer.tokenizer.special_tokens import ids_in_front


def generate(
    model: GenerativeModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    settings: GenerationSettings | None = None,
    end_ids: Collection[int] | None = None,
    first: int = 0,
) -> list[str]:
    """The continuation of each prompt (a text, or ids), without special tokens and stop texts.

    With num_return_sequences, the continuations of a prompt are adjacent. `model` is a causal
    language model, or an encoder-decoder whose encoder reads the prompts. `end_ids` default to
    `stop_token_ids(model, tokenizer)`. `first` is the number of the first prompt; sampling depends
    on the numbers of prompts.
    """
    settings = settings or GenerationSettings()
    count = settings.num_return_sequences
    texts = [""] * (len(prompts) * count)
    for number, piece in stream(model, tokenizer, prompts, settings, end_ids, first):
        texts[number - first * count] += piece
    return texts


def stream(
    model: GenerativeModel,
    tokenizer: Tokenizer,
    prompts: Sequence[str | Sequence[int]],
    settings: GenerationSettings | None = None,
    end_ids: Collection[int] | None = None,
    first: int = 0,
    past: Past | None = None,
) -> Iterator[tuple[int, str]]:
    """Yield (number of a text, its next piece) as soon as the piece is generated.

    Texts are numbered in the order of their prompts, from `first` times num_return_sequences on.
    Characters that may start a stop text, and incomplete characters, are not yielded yet. A beam
    search yields whole texts. With `past`, which is for one prompt at a time, the tokens that this
    prompt and the previous text have in common are not computed again.
    """
    settings = settings or GenerationSettings()
    end_ids = stop_token_ids(model, tokenizer) if end_ids is None else end_ids
    for_encoder = is_encoder_decoder(model)
    prompts = [prompt for prompt in prompts for _ in range(settings.copies)]
    for start in range(0, len(prompts), settings.batch_size):
        part = prompts[start : start + settings.batch_size]
        ids = [_ids(tokenizer, prompt, for_encoder) for prompt in part]
        number = first * settings.copies + start
        if settings.is_plain:
            numbered = dict(enumerate(ids, number))
            yield from _pieces(tokenizer, Decoding(model, numbered, settings, end_ids, past))
        else:
            yield from _whole_texts(model, tokenizer, ids, settings, end_ids, number)


def _pieces(tokenizer: Tokenizer, decoding: Decoding) -> Iterator[tuple[int, str]]:
    texts = {row: TextStreamer(tokenizer, decoding.settings.stop) for row in decoding.rows}
    while decoding.rows:
        for row, token in decoding.step().items():
            last = row not in decoding.rows
            piece = texts[row].add(token, last)
            if piece:
                yield row, piece
        decoding.finish({row for row in decoding.rows if texts[row].stopped})


def _whole_texts(
    model: GenerativeModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    settings: GenerationSettings,
    end_ids: Collection[int],
    number: int,
) -> Iterator[tuple[int, str]]:
    """Yield the whole texts of a batch whose first prompt has this number."""
    found = ruled_ids(model, prompts, settings, end_ids, number, tokenizer)
    texts_per_prompt = len(found) // len(prompts)
    for row, ids in enumerate(found, number * texts_per_prompt):
        streamer = TextStreamer(tokenizer, settings.stop)
        pieces = []
        for count, token in enumerate(ids, 1):
            pieces.append(streamer.add(token, count == len(ids)))
            if streamer.stopped:
                break
        if text := "".join(pieces):
            yield row, text


def _ids(tokenizer: Tokenizer, prompt: str | Sequence[int], for_encoder: bool) -> list[int]:
    """The ids of a prompt.

    A prompt for an encoder has all special tokens. Any other prompt has none at the end, since
    these would end the text.
    """
    if not isinstance(prompt, str):
        return list(prompt)
    if for_encoder:
        return ids_of_source(tokenizer, [prompt])[0]
    return [*ids_in_front(tokenizer), *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
