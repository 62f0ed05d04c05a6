"""The Modelfile of a GGUF file for Ollama: its template, system message and parameters."""

from collections.abc import Mapping, Sequence

from trainer.export.chat_pieces import ChatPieces, chat_pieces
from trainer.tokenizer import Tokenizer

FILE = "Modelfile"
PARAMETERS = {"temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p"}
PARAMETERS |= {"repetition_penalty": "repeat_penalty"}
"""Entries of generation_config.json -> Ollama's names."""
NOT_TRANSLATED = """\
# The chat template of tokenizer_config.json does more than put fixed texts around messages, so it
# is not translated. The file contains it as tokenizer.chat_template, which llama.cpp reads
# (llama-server --jinja). Ollama uses one of its own templates if it recognizes this one.
"""
NO_SYSTEM = """\
# The system message used in training is left out: one of its lines ends with three quotation
# marks, which Ollama would read as the end of the message. Send it with each chat.
"""
COMPLETION = "{{ .Prompt }}"
"""The template of a model without a chat template."""


def modelfile(
    file: str,
    tokenizer: Tokenizer,
    ends: Sequence[int],
    system: str | None,
    generation: Mapping[str, object],
    adds_bos: bool,
) -> tuple[str, str]:
    """The text of the Modelfile, and a sentence about how it treats the chat template.

    `ends` are the tokens that end a text, and `generation` are the entries of
    generation_config.json. `adds_bos` says whether llama.cpp adds the beginning-of-text token.
    """
    template, note = _template(tokenizer, adds_bos)
    lines = [f"FROM ./{file}", template]
    if system:
        quoted = _quoted(system)
        lines.append(NO_SYSTEM if quoted is None else f"SYSTEM {quoted}")
        note += " Modelfile: the system message is left out." * (quoted is None)
    vocabulary = {number: token for token, number in tokenizer.get_vocab().items()}
    stops = [_quoted(vocabulary[end]) for end in ends if end in vocabulary]
    lines += [f"PARAMETER stop {stop}" for stop in stops if stop is not None]
    for name, ollama_name in PARAMETERS.items():
        value = generation.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            lines.append(f"PARAMETER {ollama_name} {value}")
    return "\n".join(line.rstrip("\n") for line in lines) + "\n", note


def _template(tokenizer: Tokenizer, adds_bos: bool) -> tuple[str, str]:
    if tokenizer.chat_template is None:
        return f'TEMPLATE """{COMPLETION}"""', "The model has no chat template; it continues texts."
    pieces = chat_pieces(tokenizer)
    text = (
        None if pieces is None else go_template(pieces, tokenizer.bos_token if adds_bos else None)
    )
    quoted = None if text is None else _quoted(text)
    if quoted is None:
        return NOT_TRANSLATED, "Modelfile: the chat template is not translated, only mentioned."
    return f"TEMPLATE {quoted}", "Modelfile: the chat template is translated."


def _quoted(text: str) -> str | None:
    """A text in quotation marks for Ollama, or None if Ollama would read only a part of it.

    Ollama has no escapes: a text ends at the first line that ends with three quotation marks.
    """
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    lines = f'"""{text}'.split("\n")
    starts = ("\n".join(lines[:end]).strip() for end in range(1, len(lines)))
    if any(len(each) >= 6 and each.endswith('"""') for each in starts):
        return None
    return f'"""{text}"""'


def go_template(pieces: ChatPieces, bos: str | None) -> str:
    """Write the template in the language of Go's text/template, without `bos` at its start."""
    before, start = (_literal(each, bos) for each in (pieces.before_system, pieces.start))
    after_system, after_user = (_literal(p, None) for p in (pieces.after_system, pieces.after_user))
    answer = (pieces.before_answer, pieces.after_answer)
    before_answer, after_answer = (_literal(each, None) for each in answer)
    return (
        f"{{{{ if .System }}}}{before}{{{{ .System }}}}{after_system}{{{{ else }}}}{start}"
        "{{ end }}{{ range .Messages }}"
        f'{{{{ if eq .Role "user" }}}}{{{{ .Content }}}}{after_user}'
        f'{{{{ else if eq .Role "assistant" }}}}{before_answer}{{{{ .Content }}}}{after_answer}'
        "{{ end }}{{ end }}"
    )


def _literal(text: str, bos: str | None) -> str:
    """Escape a text for a Go template, without `bos` at its start.

    A brace at the end would join the two braces of the action that follows.
    """
    text = text.removeprefix(bos) if bos else text
    escaped = text.replace("{{", '{{ "{{" }}')
    return f'{escaped[:-1]}{{{{ "{{" }}}}' if escaped.endswith("{") else escaped
