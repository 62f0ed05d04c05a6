"""Calls of tokenizers give the same results as in the installed transformers."""

import copy
import enum
import logging
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Dict, List, Literal  # noqa: UP035

import numpy as np
import pytest
import torch
from tokenizers import AddedToken

from trainer.errors import InputError
from trainer.tokenizer import Tokenizer

transformers = pytest.importorskip("transformers")

TEXTS = ["We are happy to show you the library.", "We hope you don't hate it.", "Short"]
LONG = " ".join(["The quick brown fox jumps over the lazy dog."] * 10)
WORDS = [["Hello", "w\u00f6rld", "internationalized"], ["My", "name", "is", "unbelievablylong"]]
CHAT = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]
TEMPLATE = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}<|im_start|>assistant
{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>
{% else %}<|im_start|>{{ m.role }}
{{ m.content }}{% if mood is defined %} ({{ mood }}){% endif %}<|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
NAMED = {
    "default": TEMPLATE,
    "short": "{% for m in messages %}{{ m.content }}|{% endfor %}",
    "tool_use": "{{ tools | tojson }}{{ messages[0].content }}",
}


class Unit(enum.Enum):
    """Units of a temperature."""

    CELSIUS = "celsius"
    KELVIN = "kelvin"


def weather(
    place: str,
    unit: Unit,
    days: int | None = 3,
    hours: list[int] | None = None,
    kind: Literal["brief", "full", 2] = "brief",
    span: tuple[int, float] = (1, 2.0),
    extra: dict[str, float] | None = None,
    number: int | float = 1,
    mixed: list[str] | int = 1,
    anything: Any = None,
    older: List = (),  # type: ignore[type-arg]  # noqa: UP006
    oldest: Dict = {},  # type: ignore[type-arg]  # noqa: B006, UP006
) -> list[str]:
    """The weather of a place.

    It may rain: or not.

    Args:
        place: Where, such as
            the name: of a town
        unit: Of the temperature
        days: How many (choices: [1, 3, 7])

        hours: Which ones
        kind: How long a text
        span: From and to
        extra: More: numbers
        number: A number
        mixed: Several or one
        anything: What you like
        older: A list of any kind
        oldest: A mapping of any kind

    Returns:
        One line a day.

    Raises:
        OSError: without a network.
    """
    return [place]


def bare(flag: bool) -> None:
    """Without sections.

    Args:
        flag: Yes or no
    """


class Owner:
    """Has a method that is a tool."""

    def method(self, text: str) -> str:
        """Repeats.

        Args:
            text: What to repeat
        """
        return text


def padded(rows: Any, tokenizer: Any, collator: str, **options: Any) -> Any:
    """The batch that a data collator of transformers makes from rows."""
    torch.manual_seed(0)
    return getattr(transformers, collator)(tokenizer, **options)(rows)


def rows_of(tokenizer: Any, **more: Any) -> list[dict[str, Any]]:
    """The encoding of each text, with additional columns of the same length."""
    return [
        {**tokenizer(text), **{name: value(tokenizer(text)) for name, value in more.items()}}
        for text in TEXTS
    ]


def ids(encoded: Mapping[str, Any]) -> list[int]:
    return list(encoded["input_ids"])


def with_attribute(name: str, value: Any, call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A call of a tokenizer after setting an attribute."""

    def run(tokenizer: Any) -> Any:
        setattr(tokenizer, name, value)
        return call(tokenizer)

    return run


def chat(tokenizer: Any, *messages: Any, **options: Any) -> Any:
    return tokenizer.apply_chat_template(*(messages or (CHAT,)), **options)


def tensors(value: Any) -> Any:
    return value.convert_to_tensors("pt", prepend_batch_axis=True)


ENDS = {"bos_token": "<bos>", "eos_token": "<eos>"}
CALLS: dict[str, Callable[[Any], Any]] = {
    "pairs of pre-split words": lambda t: t([tuple(WORDS)] * 2, is_split_into_words=True),
    "pre-split words beside others": lambda t: t(WORDS, WORDS[::-1], is_split_into_words=True),
    "text_target": lambda t: t(text=TEXTS, text_target=TEXTS[::-1], padding=True),
    "text_target alone": lambda t: t(text_target=TEXTS[0]),
    "text_target of its own length": lambda t: t(
        LONG, text_target=LONG, max_length=9, max_target_length=5, truncation=True
    ),
    "text_pair_target": lambda t: t(TEXTS[0], text_target=TEXTS[1], text_pair_target=TEXTS[2]),
    "split_special_tokens": lambda t: t(t.all_special_tokens[0] + " a", split_special_tokens=True),
    "split_special_tokens in tokenize": lambda t: t.tokenize(
        t.all_special_tokens[0] + " a", split_special_tokens=True
    ),
    "split_special_tokens of the tokenizer": with_attribute(
        "split_special_tokens", True, lambda t: t(t.all_special_tokens[0] + " a")
    ),
    "split_special_tokens is not kept": lambda t: [
        t(t.all_special_tokens[0], split_special_tokens=True),
        t(t.all_special_tokens[0]),
    ],
    "encode by position": lambda t: t.encode(TEXTS[0], None, False),
    "decode a batch": lambda t: t.decode(t(TEXTS)["input_ids"]),
    "decode rows of a tensor": lambda t: t.decode(
        t(TEXTS, padding=True, return_tensors="pt")["input_ids"], skip_special_tokens=True
    ),
    "decode rows of an array": lambda t: t.decode(
        t(TEXTS, padding=True, return_tensors="np")["input_ids"]
    ),
    "decode a number": lambda t: t.decode(20),
    "pad_token_type_id": lambda t: t.pad_token_type_id,
    "special_tokens_mask of a row": lambda t: t.get_special_tokens_mask(
        ids(t(TEXTS[0])), already_has_special_tokens=True
    ),
    "is_fast": lambda t: t.is_fast,
    "name_or_path": lambda t: Path(t.name_or_path).name,
    "backend_tokenizer": lambda t: type(t.backend_tokenizer).__name__,
    "vocab": lambda t: t.vocab == t.get_vocab(),
    "added_tokens_decoder": lambda t: {n: repr(v) for n, v in t.added_tokens_decoder.items()},
    "added_tokens_encoder": lambda t: dict(t.added_tokens_encoder),
    "init_kwargs": lambda t: isinstance(t.init_kwargs, dict),
    "max_len_single_sentence": lambda t: [t.max_len_single_sentence, t.max_len_sentences_pair],
    "model_input_names": with_attribute(
        "model_input_names", ["input_ids"], lambda t: [t(TEXTS), t.pad([t(x) for x in TEXTS])]
    ),
    "model_input_names of other models": with_attribute(
        "model_input_names",
        ["values", "attention_mask"],
        lambda t: t.pad([{"values": [1, 2, 3]}, {"values": [4]}]),
    ),
    "data": lambda t: {**t(TEXTS).data, "keys": sorted(t(TEXTS).data)},
    "n_sequences": lambda t: [t(TEXTS[0]).n_sequences, t(TEXTS, TEXTS).n_sequences],
    "is_fast of an encoding": lambda t: [t(TEXTS[0]).is_fast, t.pad([t("a")]).is_fast],
    "convert_to_tensors": lambda t: t(TEXTS, padding=True).convert_to_tensors("np"),
    "convert_to_tensors of one": lambda t: tensors(t(TEXTS[0])),
    "an encoding of columns": lambda t: type(t("a"))(
        {"input_ids": [[1, 2]], "labels": [0.5]}, tensor_type="pt"
    ),
    "a slice of what pad returned": lambda t: t.pad([t(x) for x in TEXTS])[:2],
    "to a dtype changes nothing": lambda t: t(TEXTS[0], return_tensors="pt").to(torch.float16),
    "to a device": lambda t: t(TEXTS[0], return_tensors="pt").to("cpu"),
    "add tokens": lambda t: [
        t.add_tokens(["newA", AddedToken("<x>", lstrip=True)]),
        t.add_special_tokens({"additional_special_tokens": ["<s1>", "<s2>"]}),
        t("a newA <x> <s1>b"),
        {n: repr(v) for n, v in t.added_tokens_decoder.items()},
    ],
    "ids of extra special tokens": lambda t: [
        t.add_special_tokens({"extra_special_tokens": ["<s1>"]}),
        t.extra_special_tokens_ids,
        setattr(t, "extra_special_tokens_ids", [7]),
        t.extra_special_tokens,
    ],
    "bos and eos around texts": lambda t: [
        (loaded := t.from_pretrained(t.name_or_path, **ENDS, add_bos_token=True))(*TEXTS[:2]),
        setattr(loaded, "add_eos_token", True),
        (loaded.add_bos_token, loaded.add_eos_token),
        loaded(*TEXTS[:2]),
        setattr(loaded, "add_bos_token", False),
        loaded(TEXTS),
    ],
    "trained again with other names": lambda t: [
        new := t.train_new_from_iterator(
            [TEXTS],
            300,
            special_tokens_map={name: f"{name}a" for name in t.special_tokens_map.values()},
        ),
        new.special_tokens_map,
        [new.get_added_vocab()[token] for token in new.special_tokens_map.values()],
        new("Short")["input_ids"][0] in new.all_special_ids,
    ][1:],
    "DataCollatorWithPadding": lambda t: padded(rows_of(t), t, "DataCollatorWithPadding"),
    "DataCollatorWithPadding to a multiple": lambda t: padded(
        rows_of(t, label=lambda _: 1), t, "DataCollatorWithPadding", pad_to_multiple_of=8
    ),
    "DataCollatorForTokenClassification": lambda t: padded(
        rows_of(t, labels=ids), t, "DataCollatorForTokenClassification"
    ),
    "DataCollatorForSeq2Seq": lambda t: padded(
        rows_of(t, labels=lambda e: ids(e)[1:]), t, "DataCollatorForSeq2Seq"
    ),
    "DataCollatorForLanguageModeling": lambda t: padded(
        rows_of(t), t, "DataCollatorForLanguageModeling", mlm=False
    ),
    "DataCollatorWithFlattening": lambda t: transformers.DataCollatorWithFlattening()(rows_of(t)),
}
WORDPIECE: dict[str, Callable[[Any], Any]] = {
    "bos without a token": lambda t: [
        loaded := t.from_pretrained(t.name_or_path, bos_token=None),
        setattr(loaded, "add_bos_token", True),
        loaded.add_bos_token,
    ][2:],
    "DataCollatorForLanguageModeling, masked": lambda t: padded(
        rows_of(t), t, "DataCollatorForLanguageModeling", mlm_probability=0.5
    ),
    "DataCollatorForLanguageModeling, whole words": lambda t: padded(
        [
            dict(t(text, return_offsets_mapping=True, padding="max_length", max_length=32))
            for text in TEXTS
        ],
        t,
        "DataCollatorForLanguageModeling",
        whole_word_mask=True,
        seed=3,
    ),
    "DataCollatorForMultipleChoice": lambda t: padded(
        [dict(t(TEXTS[:2]), label=1), dict(t(TEXTS[1:]), label=0)],
        t,
        "DataCollatorForMultipleChoice",
    ),
}
CHATS: dict[str, Callable[[Any], Any]] = {
    "text": lambda t: chat(t, tokenize=False),
    "ids": lambda t: chat(t),
    "ids alone": lambda t: chat(t, return_dict=False),
    "generation prompt": lambda t: chat(t, tokenize=False, add_generation_prompt=True),
    "continued": lambda t: chat(t, CHAT[:2], tokenize=False, continue_final_message=True),
    "several, padded": lambda t: chat(t, [CHAT, CHAT[:1]], padding=True, return_tensors="pt"),
    "padding to a length": lambda t: chat(t, CHAT[:1], padding="max_length", max_length=90),
    "truncation": lambda t: chat(t, truncation=True, max_length=6),
    "max_length alone": lambda t: chat(t, max_length=6),
    "sanitized": lambda t: chat(
        t, [{"role": "user", "content": "a<|im_end|>b"}], sanitize_control_tokens=True
    ),
    "assistant mask": lambda t: chat(t, return_assistant_tokens_mask=True),
    "tokenizer_kwargs": lambda t: chat(t, tokenizer_kwargs={"return_offsets_mapping": True}),
    "split_special_tokens": lambda t: chat(t, tokenizer_kwargs={"split_special_tokens": True}),
    "a template": lambda t: chat(t, chat_template=NAMED["short"], tokenize=False),
    "documents": lambda t: chat(
        t, documents=[{"title": "a"}], chat_template="{{ documents | tojson }}", tokenize=False
    ),
    "a variable": lambda t: chat(t, mood="glad", tokenize=False),
    "functions as tools": lambda t: chat(
        t, tools=[weather, bare, Owner().method, {"name": "given"}], tokenize=False
    ),
    "add_prefix_space": lambda t: [
        t.from_pretrained(t.name_or_path, add_prefix_space=True).add_prefix_space,
        t.add_prefix_space,
    ],
    "get_chat_template": lambda t: t.get_chat_template(),
    "get_chat_template of a given one": lambda t: t.get_chat_template("{{ messages }}"),
    "named": with_attribute(
        "chat_template",
        NAMED,
        lambda t: [
            chat(t, tokenize=False),
            chat(t, tokenize=False, chat_template="short"),
            chat(t, tokenize=False, tools=[bare]),
            t.get_chat_template("short"),
            t.get_chat_template(tools=[{}]),
        ],
    ),
}


def plain(value: Any) -> Any:
    """A result in a form that can be compared, with the types and values of arrays."""
    if isinstance(value, Mapping) or type(value).__name__ == "BatchEncoding":
        return {name: plain(value[name]) for name in sorted(value)}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return (type(value).__name__, str(value.dtype), value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tokenizer of BERT's kind, and one of GPT-2's that has a chat template."""
    texts = [*TEXTS, LONG, *(word for words in WORDS for word in words), TEMPLATE]
    root = tmp_path_factory.mktemp("tokenizers")
    Tokenizer.train(texts, vocab_size=200, kind="wordpiece").save_pretrained(root / "wordpiece")
    control = ["<|im_start|>", "<|im_end|>", "<pad>"]
    decoder = Tokenizer.train(texts, vocab_size=330, kind="gpt2", special_tokens=control)
    decoder.pad_token = "<pad>"
    decoder.chat_template = TEMPLATE
    decoder.save_pretrained(root / "gpt2")
    return {kind: root / kind for kind in ("wordpiece", "gpt2")}


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (
            Tokenizer.from_pretrained(folder),
            transformers.AutoTokenizer.from_pretrained(folder),
        )
        for name, folder in folders.items()
    }


def cases() -> Iterator[Any]:
    for kind, tables in {"wordpiece": [CALLS, WORDPIECE], "gpt2": [CALLS, CHATS]}.items():
        for table in tables:
            for name, call in table.items():
                yield pytest.param(kind, call, id=f"{kind}: {name}")


@pytest.mark.parametrize(("kind", "call"), list(cases()))
def test_a_call_gives_what_it_gives_in_transformers(
    loaded: dict[str, tuple[Any, Any]], kind: str, call: Callable[[Any], Any]
) -> None:
    ours, theirs = (copy.deepcopy(tokenizer) for tokenizer in loaded[kind])
    assert plain(call(ours)) == plain(call(theirs))


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an option that no call has": (lambda t: t("a", paddding=True), "did you mean 'padding'"),
    "no text": (lambda t: t(), "text: found NoneType"),
    "a variable that the template does not read": (
        lambda t: chat(t, add_generation_promt=True),
        "found add_generation_promt.*did you mean 'add_generation_prompt'",
    ),
    "a tool without a docstring": (lambda t: chat(t, tools=[lambda: 1]), "has no docstring"),
    "a tool that is none": (lambda t: chat(t, tools=[3]), r"tools\[0\]: found int"),
    "ids of a pair that has its special tokens": (
        lambda t: t.get_special_tokens_mask([1], [2], already_has_special_tokens=True),
        "token_ids_1",
    ),
    "the slow kind": (lambda t: t.from_pretrained(t.name_or_path, use_fast=False), "use_fast"),
    "an option that no file has": (lambda t: t.from_pretrained(t.name_or_path, foo=1), "foo"),
    "a message that is no list": (lambda t: t.apply_chat_template(CHAT[0]), "messages"),
    "an iterator of messages": (lambda t: t.apply_chat_template(iter(CHAT)), "messages"),
    "no messages": (lambda t: t.apply_chat_template(None), "messages"),
    "a folder outside": (
        lambda t: t.from_pretrained(t.name_or_path, subfolder="../x"),
        "subfolder",
    ),
    "uploading": (lambda t: t.save_pretrained("x", push_to_hub=True), "push_to_hub"),
}


@pytest.mark.parametrize(("call", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_obeyed_is_refused_in_one_line(
    loaded: dict[str, tuple[Any, Any]], call: Callable[[Any], Any], said: str
) -> None:
    with pytest.raises(InputError, match=said) as caught:
        call(copy.deepcopy(loaded["gpt2"][0]))
    assert "\n" not in str(caught.value)


def untyped(number) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    """Has no type hint."""


def undescribed(number: int) -> None:
    """Does not describe its argument."""


def strange(number: Path) -> None:
    """Takes what JSON has not.

    Args:
        number: A path
    """


def unknown(number: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
    """Takes what is not defined.

    Args:
        number: A number
    """


def unknown_part(number: "logging.Nowhere") -> None:  # type: ignore[name-defined]
    """Takes what a module does not define.

    Args:
        number: A number
    """


def misread(number: int) -> None:
    """Has choices that are no list.

    Args:
        number: A number (choices: 5)
    """


@pytest.mark.parametrize(
    ("tool", "said"),
    [
        *((untyped, "no type hint"), (undescribed, "not describe number")),
        *((strange, "found .*Path"), (unknown, "'Nowhere' is not defined")),
        (unknown_part, "no attribute 'Nowhere'; accepted: types that are defined"),
        (misread, "number: choices: found 5; accepted: a JSON list"),
    ],
)
def test_a_function_that_gives_no_schema_is_refused_as_in_transformers(
    loaded: dict[str, tuple[Any, Any]], tool: Any, said: str
) -> None:
    ours, theirs = loaded["gpt2"]
    with pytest.raises(InputError, match=said):
        chat(ours, tools=[tool])
    with pytest.raises(Exception):  # noqa: B017
        chat(theirs, tools=[tool])


def test_templates_are_saved_as_transformers_saves_them(
    loaded: dict[str, tuple[Any, Any]], tmp_path: Path
) -> None:
    ours, theirs = (copy.deepcopy(tokenizer) for tokenizer in loaded["gpt2"])
    for templates in (NAMED, TEMPLATE, None):  # each replaces the one before in the same folder
        ours.chat_template = theirs.chat_template = templates
        written = ours.save_pretrained(tmp_path / "ours")
        assert all(Path(file).is_file() for file in written)
        for kind in (Tokenizer, transformers.AutoTokenizer):
            assert kind.from_pretrained(tmp_path / "ours").chat_template == templates
        if templates is not None:
            folder = tmp_path / str(len(templates))  # transformers does not remove old templates
            theirs.save_pretrained(folder)
            assert Tokenizer.from_pretrained(folder).chat_template == templates
    ours.chat_template = NAMED
    ours.save_pretrained(tmp_path / "old", save_jinja_files=False)
    assert not list((tmp_path / "old").rglob("*.jinja"))
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "old").chat_template == NAMED


def test_the_mask_of_one_text_is_that_of_its_row(loaded: dict[str, tuple[Any, Any]]) -> None:
    for ours, _ in loaded.values():
        for pair in (None, TEXTS[1]):
            first, second = (
                None if text is None else ours.encode(text, add_special_tokens=False)
                for text in (TEXTS[0], pair)
            )
            wanted = ours(TEXTS[0], pair, return_special_tokens_mask=True)["special_tokens_mask"]
            assert ours.get_special_tokens_mask(first, second) == wanted


def test_the_vocabulary_is_saved(
    loaded: dict[str, tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (file,) = loaded["wordpiece"][0].save_vocabulary("~/home")
    assert file == str(tmp_path / "home/vocab.txt")
    found = {
        name: [Path(file).name for file in ours.save_vocabulary(tmp_path / name)]
        for name, (ours, _) in loaded.items()
    }
    assert found == {"wordpiece": ["vocab.txt"], "gpt2": ["vocab.json", "merges.txt"]}
    for name, (ours, _) in loaded.items():
        again = Tokenizer.from_pretrained(tmp_path / name)
        assert again.encode(TEXTS[0], None, False) == ours.encode(TEXTS[0], None, False)


def test_padding_type_ids_are_those_set(loaded: dict[str, tuple[Any, Any]], tmp_path: Path) -> None:
    ours = copy.deepcopy(loaded["wordpiece"][0])
    ours.pad_token_type_id = 3
    padded_rows = ours(TEXTS, padding=True)
    assert padded_rows == ours.pad([ours(text) for text in TEXTS])
    assert padded_rows["token_type_ids"][2][-1] == 3
    ours.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path)(TEXTS, padding=True) == padded_rows


def test_a_text_that_is_too_long_is_named_once(
    loaded: dict[str, tuple[Any, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    ours = copy.deepcopy(loaded["wordpiece"][0])
    ours.model_max_length = 8
    ours(LONG, verbose=False)
    ours(LONG, max_length=1000, truncation=False)
    ours(LONG, truncation=True)
    assert not caplog.records
    ours(LONG)
    ours([LONG, "a"])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "but the model takes 8" in caplog.text


def test_arguments_that_change_nothing_are_answered(
    folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = folders["gpt2"]
    found = Tokenizer.from_pretrained(folder.parent, subfolder="gpt2", trust_remote_code=True)
    assert "no remote code runs here" in caplog.text
    assert found(TEXTS) == Tokenizer.from_pretrained(folder, trust_remote_code=False)(TEXTS)
    assert pickle.loads(pickle.dumps(found(TEXTS, TEXTS))).n_sequences == 2


def test_data_of_an_encoding_can_be_replaced(loaded: dict[str, tuple[Any, Any]]) -> None:
    encoding = loaded["gpt2"][0](TEXTS)
    encoding.data["labels"] = [1, 2, 3]
    assert encoding["labels"] == [1, 2, 3]
    encoding.data = {"labels": encoding["labels"]}
    assert dict(encoding) == {"labels": [1, 2, 3]}


DIFFERENCES: dict[str, Callable[[Any], Any]] = {
    "an unknown option of a call": lambda t: t("a", paddding=True),
    "an unknown option of `from_pretrained`": lambda t: (
        t.from_pretrained(t.name_or_path, foo=1) and 1
    ),
    "an empty list of texts": lambda t: t([]),
    "arrays, Series and columns of texts": lambda t: t(np.array(TEXTS)),
    "a special token that the vocabulary does not have": with_attribute(
        "pad_token", "<new>", lambda t: t.pad_token_id
    ),
    "a `vocab_size` that is too small for the characters": lambda t: len(
        t.train_new_from_iterator([TEXTS], 20)
    ),
    "a chat without a template": with_attribute("chat_template", None, chat),
    "a variable that the chat template does not read": lambda t: chat(t, unread=1),
    "a copy of an encoding": lambda t: pickle.loads(pickle.dumps(t("a"))).is_fast,
    "a slow tokenizer (`use_fast=False`)": lambda t: (
        t.from_pretrained(t.name_or_path, use_fast=False) and 1
    ),
}


def outcome(call: Callable[[Any], Any], tokenizer: Any) -> Any:
    """A result, or that the call fails."""
    try:
        return plain(call(copy.deepcopy(tokenizer)))
    except Exception:
        return "refused"


def test_documented_differences_are_differences(
    loaded: dict[str, tuple[Any, Any]], repository: Path
) -> None:
    page = (repository / "docs/differences.md").read_text(encoding="utf-8")
    section = page.split("## Tokenizers\n")[1].split("\n## ")[0]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines()[3:] if line]
    assert rows == list(DIFFERENCES)
    ours, theirs = loaded["gpt2"]
    same = [
        name for name, call in DIFFERENCES.items() if outcome(call, ours) == outcome(call, theirs)
    ]
    assert not same
