"""Instruction tuning: every format, its trained tokens, truncated and dropped rows."""

import json
from typing import Any

import pytest

from recipes.instruction import Instruction
from trainer import Trainer, TrainSettings
from trainer.data.chat_rows import parsed
from trainer.data.in_memory_rows import as_table
from trainer.data.read_options import BadRows
from trainer.data.tokens import tokenize
from trainer.errors import InputError
from trainer.runs.context import DataOptions, RunContext

CHAT = [
    {"role": "user", "content": "what is two and two?"},
    {"role": "assistant", "content": "four"},
    {"role": "user", "content": "why so?"},
    {"role": "assistant", "content": "of course."},
]
SHAREGPT = [
    {"from": {"user": "human", "assistant": "gpt"}[turn["role"]], "value": turn["content"]}
    for turn in CHAT
]
ANSWERED = "four<|im_end|>"


def table(rows: list[Any], tokenizer: Any, drop: float | None = None, **fields: Any) -> Any:
    return tokenize(
        as_table(rows),
        Instruction(**fields),
        tokenizer,
        cache_dir=None,
        where="rows",
        progress=True,
        bad_rows=None if drop is None else BadRows("drop", drop),
    )


def learnt(rows: list[Any], tokenizer: Any, **fields: Any) -> list[str]:
    """The trained parts of each row: its runs of labels, decoded and joined by |."""
    samples = table(rows, tokenizer, **fields)
    found = []
    for number in range(len(samples)):
        labels = samples.collate([number])["labels"].tolist()
        runs = "".join("|" if n == -100 else tokenizer.decode([n]) for n in labels)
        found.append("|".join(filter(None, runs.split("|"))))
    return found


@pytest.mark.parametrize(
    "row",
    [
        {"messages": CHAT[:2]},
        {"conversations": SHAREGPT[:2]},
        {"prompt": CHAT[0]["content"], "completion": "four"},
        {"prompt": CHAT[:1], "completion": CHAT[1:2]},
        {"instruction": CHAT[0]["content"], "output": "four"},
        {"instruction": "what is", "input": "two and two?", "output": "four"},
    ],
    ids=lambda row: "+".join(row),
)
def test_every_format_teaches_the_answer(row: Any, turns_tokenizer: Any) -> None:
    assert learnt([row], turns_tokenizer) == [ANSWERED]


CALLING = (
    "{% if tools %}<tools>{{ tools|tojson }}{% endif %}"
    "{% for m in messages %}({{ m.content }}"
    "{% for call in m.tool_calls or [] %}{{ call.function.arguments|tojson }}{% endfor %})"
    "{% endfor %}"
)


def called(**arguments: Any) -> list[Any]:
    function = {"name": "f", "arguments": arguments}
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": function}]}
    return [CHAT[0], call, {"role": "tool", "content": "4"}, CHAT[1]]


def test_calls_have_their_own_arguments_alone(turns_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(turns_tokenizer, "chat_template", CALLING)
    rows = [{"messages": called(a="what")}, {"messages": called(b="why")}]
    assert learnt(rows, turns_tokenizer) == ['({"a": "what"})|(four)', '({"b": "why"})|(four)']


def test_arguments_are_what_the_row_says(turns_tokenizer: Any, monkeypatch: Any) -> None:
    given = [
        {"zip": None, "city": "a"},
        {"city": "b", "zip": 1},
        {"zip": 1.0, "n": {}},
        {"zip": "x", "n": [None, 12345678901234567890]},
    ]
    monkeypatch.setattr(turns_tokenizer, "chat_template", CALLING)
    rows = [{"messages": called(**arguments)} for arguments in given]
    as_text = [{"messages": json.dumps(row["messages"])} for row in rows]
    wanted = [f"({json.dumps(arguments)})|(four)" for arguments in given]
    for each in (rows, as_text):
        assert shown(each, turns_tokenizer) == wanted
    with pytest.raises(InputError, match="row 1: messages: Expecting .*or its JSON"):
        table([as_text[0], {"messages": "[{"}], turns_tokenizer)


def shown(rows: list[Any], tokenizer: Any) -> list[str]:
    """The trained parts of each row as text, for any tokenizer."""
    from trainer.tokenizer.assistant_spans import supervised_texts

    chats = [parsed(row["messages"], 0, "messages", "a chat") for row in as_table(rows)]
    texts = [text for texts in supervised_texts(tokenizer, chats, "assistant") for text in texts]
    return ["|".join(each.text[a:b] for a, b in each.spans) for each in texts]


def test_tools_are_each_rows_own(turns_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(turns_tokenizer, "chat_template", CALLING)
    tools = [[{"name": "f", "a": 1}], [{"name": "g", "b": 2}], None]
    wanted = ['<tools>[{"name": "f", "a": 1}]', '<tools>[{"name": "g", "b": 2}]', ""]
    chat = "(what is two and two?)(four)"
    for columns in (tools, [json.dumps(each) for each in tools], ["", *map(json.dumps, tools)]):
        rows = [{"messages": CHAT[:2], "tools": each} for each in columns]
        found = learnt(rows, turns_tokenizer, train_on="all")
        assert found == [start + chat for start in ["", *wanted][-len(rows) :]]
    for wrong in ("[", '{"name": "f"}'):
        rows = [{"messages": CHAT[:2], "tools": each} for each in ("[]", wrong)]
        with pytest.raises(InputError, match="rows row 1: tools: .*accepted: a list of tools, or"):
            learnt(rows, turns_tokenizer)


def test_a_fault_among_other_tools_names_its_row(turns_tokenizer: Any, monkeypatch: Any) -> None:
    failing = "{% if tools %}{{ raise_exception('no tools') }}{% endif %}"
    monkeypatch.setattr(turns_tokenizer, "chat_template", CALLING + failing)
    rows = [{"messages": CHAT[:2], "tools": each} for each in ("", "", "[1]")]
    with pytest.raises(InputError, match="rows row 2: chat_template line 1: no tools"):
        learnt(rows, turns_tokenizer)


def test_a_rows_own_system_message_comes_first(turns_tokenizer: Any) -> None:
    rows = [
        {"conversations": SHAREGPT[:2], "system": own, "history": []} for own in ("why so?", None)
    ]
    own, general = learnt(rows, turns_tokenizer, train_on="all", system="what?")
    assert own.startswith("<|im_start|>system\nwhy so?<|im_end|>\n<|im_start|>user")
    assert general.startswith("<|im_start|>system\nwhat?<|im_end|>\n<|im_start|>user")
    both = [{"messages": [{"role": "system", "content": "a"}, *CHAT], "system": "b"}]
    with pytest.raises(InputError, match="row 0: system: given together with a system message"):
        learnt(both, turns_tokenizer)


def test_of_a_prompt_of_messages_nothing_is_learnt(turns_tokenizer: Any, monkeypatch: Any) -> None:
    rows = [
        {"prompt": CHAT[:3], "completion": CHAT[3:]},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
    ]
    wanted = ["of course.<|im_end|>", "four<|im_end|>|of course.<|im_end|>"]
    assert learnt(rows, turns_tokenizer) == wanted
    assert learnt(rows, turns_tokenizer, system="why?") == wanted
    assert learnt(rows, turns_tokenizer, train_on="last") == [wanted[0]] * 2
    marking = (
        "{% for m in messages %}{% if m.role == 'user' %}({{ m.content }})"
        "{% else %}{% generation %}{{ m.content }}{% endgeneration %}{% endif %}{% endfor %}"
    )
    monkeypatch.setattr(turns_tokenizer, "chat_template", marking)
    assert learnt(rows, turns_tokenizer) == ["of course.", "four|of course."]


def test_what_is_trained_on_is_chosen(turns_tokenizer: Any) -> None:
    rows = [{"messages": CHAT}]
    both = ["four<|im_end|>|of course.<|im_end|>"]
    assert learnt(rows, turns_tokenizer) == both
    assert learnt(rows, turns_tokenizer, train_on="last") == ["of course.<|im_end|>"]
    (whole,) = learnt(rows, turns_tokenizer, train_on="all")
    assert whole == turns_tokenizer.apply_chat_template(CHAT, tokenize=False)
    (system,) = learnt(rows, turns_tokenizer, train_on="all", system="why?")
    assert system == f"<|im_start|>system\nwhy?<|im_end|>\n{whole}"


def test_the_end_is_learnt_although_it_is_the_pad(turns_tokenizer: Any) -> None:
    assert turns_tokenizer.pad_token == turns_tokenizer.eos_token == "<|im_end|>"
    batch = table([{"messages": CHAT}], turns_tokenizer).collate([0])
    end = turns_tokenizer.eos_token_id
    assert (batch["labels"] == end).sum() == 2 and (batch.input_ids == end).sum() == 4


def test_plain_texts_have_no_template(turns_tokenizer: Any) -> None:
    rows = [{"prompt": "two and two:", "completion": " four"}]
    assert learnt(rows, turns_tokenizer, chat=False) == [" four<|im_end|>"]
    everything = ["two and two: four<|im_end|>"]
    assert learnt(rows, turns_tokenizer, chat=False, train_on="all") == everything
    # a token that spans the prompt and the answer is trained on
    shifted = [{"prompt": "two and two: ", "completion": "four"}]
    assert learnt(shifted, turns_tokenizer, chat=False) == [" four<|im_end|>"]
    with pytest.raises(InputError, match="'system' is not read with these rows"):
        learnt([{**rows[0], "system": "why?"}], turns_tokenizer, chat=False)
    with pytest.raises(InputError, match="recipe.chat: false, but the rows are chats"):
        learnt([{"messages": CHAT}], turns_tokenizer, chat=False)


def test_rows_that_teach_nothing_are_an_error_or_counted(
    turns_tokenizer: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = [{"role": "user", "content": "two " * 60}, CHAT[1]]
    rows = [{"messages": CHAT[:2]}, {"messages": long}, {"messages": CHAT}]
    with pytest.raises(
        InputError, match="rows row 1: nothing to learn from in its first 40 tokens"
    ):
        table(rows, turns_tokenizer, max_length=40)
    samples = table(rows, turns_tokenizer, max_length=40, drop=1)
    assert samples.counts == {"truncated": 1, "dropped": 1}
    assert samples.rows.tolist() == [0, 2] and samples.lengths.max() == 40
    assert "rows: 1 of 3 rows is dropped" in caplog.text
    with pytest.raises(InputError, match="rows: 1 of 1 row is bad, the first"):
        table(rows[1:2], turns_tokenizer, max_length=40, drop=1)
    monkeypatch.setattr("trainer.data.token_arrays.ROWS_PER_CALL", 10)
    many = [{"messages": long}] * 15 + [{"messages": CHAT}]  # whole calls of dropped rows
    kept = table(many, turns_tokenizer, max_length=40, drop=1)
    assert kept.rows.tolist() == [15] and kept.fields["labels"].dtype.kind == "i"


def test_a_chat_of_several_texts_is_one_sample(turns_tokenizer: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        turns_tokenizer,
        "chat_template",
        "{% for m in messages %}"
        "{% if m.role == 'assistant' and not loop.last %}({{ m.content[:2] }})"
        "{% else %}({{ m.content }}){% endif %}{% endfor %}",
    )
    samples = table([{"messages": CHAT}, {"messages": CHAT[:2]}], turns_tokenizer)
    batch = samples.collate([0, 1])
    assert batch.sequence_sample.tolist() == [0, 0, 1]
    assert learnt([{"messages": CHAT}], turns_tokenizer) == ["(four)|(of course.)"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": []}, "rows row 0: messages: empty"),
        ({"messages": CHAT[1:]}, "'assistant' first, out of order"),
        ({"conversations": [{"from": "alien", "value": "x"}]}, r"conversations\[0\]: from 'alien'"),
        ({"prompt": "a"}, "no column 'completion'"),
        ({"prompt": "a", "completion": None}, "'completion' is null"),
        (
            {"prompt": CHAT[:1], "completion": "four"},
            "'completion' is 'four', and the other a list",
        ),
        (
            {"prompt": "two?", "completion": CHAT[1:2]},
            "'prompt' is 'two.', and the other a list",
        ),
        ({"prompt": CHAT[:2], "completion": CHAT[2:3]}, "no answer .* after the prompt"),
        (
            {"instruction": "a", "output": "b", "history": [["c", "d"]]},
            "row 0: 'history' is not read with these rows; accepted: its content as messages",
        ),
        ({"text": "a"}, "no column to learn from, there are: text; accepted: messages; conv"),
    ],
)
def test_wrong_rows_are_refused(row: Any, said: str, turns_tokenizer: Any) -> None:
    with pytest.raises(InputError, match=said):
        table([row], turns_tokenizer)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"train_on": "user"}, "recipe.train_on: found 'user'; accepted: assistant, last, all"),
        ({"max_length": 0}, "recipe.max_length: found 0"),
        (
            {"chat": False, "system": "a"},
            "recipe.system: found a message with recipe.chat=false; accepted: recipe.chat=true, or",
        ),
        ({"date": "today"}, "recipe.date: found 'today'; accepted: 2024-07-26"),
    ],
)
def test_wrong_fields_are_refused(fields: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Instruction(**fields)


def test_a_model_learns_the_answers(turns_tokenizer: Any, tiny_llama: Any, tmp_path: Any) -> None:
    rows = [{"messages": CHAT}, {"messages": CHAT[:2]}] * 4
    long = {"messages": [{"role": "user", "content": "two " * 99}, CHAT[1]]}
    trainer = Trainer(
        tiny_llama,
        Instruction(max_length=64),
        TrainSettings(num_epochs=40, global_batch_size=4, learning_rate=1e-2),
        tokenizer=turns_tokenizer,
        train_dataset=rows,
        eval_dataset=[long, *rows],
        output_dir=tmp_path,
        context=RunContext(data=DataOptions(bad_rows=BadRows("drop", 0.2))),
    )
    metrics = trainer.fit()["metrics"]
    (dropped,) = map(json.loads, (tmp_path / "dropped.jsonl").read_text().splitlines())
    assert dropped["place"] == "dataset.validation row 0" and dropped["row"] == long
    assert dropped["reason"].startswith("nothing to learn from in its first 64 tokens")
    assert metrics["eval_token_accuracy"] > 0.9 and metrics["eval_perplexity"] < 2
    assert '"row": 0' not in (tmp_path / "predictions.jsonl").read_text()  # that row was dropped


@pytest.mark.parametrize("end", ["<|im_end|>", ""])
def test_answers_without_an_end_give_a_warning(
    turns_tokenizer: Any, tiny_llama: Any, caplog: Any, monkeypatch: Any, end: str
) -> None:
    template = "{% for m in messages %}" + f"({{{{ m.content }}}}){end}" + "{% endfor %}"
    monkeypatch.setattr(turns_tokenizer, "chat_template", template)
    Trainer(
        tiny_llama,
        Instruction(max_length=64),
        TrainSettings(max_steps=1, global_batch_size=2),
        tokenizer=turns_tokenizer,
        train_dataset=[{"messages": CHAT}] * 2,
    ).fit()
    said = [m for m in caplog.messages if "is learnt, so the model will not stop" in m]
    assert len(said) == (0 if end else 1)
    assert all(m.startswith("dataset.train: no end token (") and "<|im_end|>" in m for m in said)


def test_weights_and_variables_of_rows_are_obeyed(turns_tokenizer: Any, monkeypatch: Any) -> None:
    template = "{{ effort or 'low' }}: " + turns_tokenizer.chat_template
    monkeypatch.setattr(turns_tokenizer, "chat_template", template)
    weighed = [{**turn, "weight": number // 2} for number, turn in enumerate(CHAT)]
    weighed = [t if t["role"] == "assistant" else {**t, "weight": None} for t in weighed]
    assert learnt([{"messages": weighed}], turns_tokenizer) == ["of course.<|im_end|>"]
    shared = [{**turn, "train": False} for turn in SHAREGPT[:2]] + SHAREGPT[2:]
    assert learnt([{"conversations": shared}], turns_tokenizer) == ["of course.<|im_end|>"]
    for given in ({"effort": "high"}, '{"effort": "high"}'):
        rows = [{"messages": CHAT[:2], "chat_template_kwargs": given}]
        ids = table(rows, turns_tokenizer).collate([0]).input_ids.tolist()
        assert turns_tokenizer.decode(ids).startswith("high: ")
    rows = [
        {"messages": CHAT[:2], "chat_template_kwargs": text} for text in (None, '{"effort": "x"}')
    ]
    found = table(rows, turns_tokenizer)
    texts = [turns_tokenizer.decode(found.collate([n]).input_ids.tolist()) for n in (0, 1)]
    assert [text.partition(":")[0] for text in texts] == ["low", "x"]


def test_calls_under_their_older_names_are_calls(turns_tokenizer: Any, monkeypatch: Any) -> None:
    template = (
        "{% for m in messages %}{{ m.role }} {{ m.content }} {{ m.tool_calls }}\n{% endfor %}"
    )
    monkeypatch.setattr(turns_tokenizer, "chat_template", template)
    call = {"name": "f", "arguments": {"a": 1}}
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                CHAT[0],
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"type": "function", "function": call}],
                },
                {"role": "tool", "content": "4"},
                CHAT[1],
            ]
        },
        {
            "messages": [
                CHAT[0],
                {"role": "assistant", "content": None, "function_call": call},
                {"role": "function", "content": "4"},
                CHAT[1],
            ]
        },
        {
            "conversations": [
                SHAREGPT[0],
                {"from": "function_call", "value": json.dumps(call)},
                {"from": "observation", "value": "4"},
                SHAREGPT[1],
            ]
        },
    ]
    texts = []
    for row in rows:
        ids = table([row], turns_tokenizer, train_on="all").collate([0]).input_ids.tolist()
        texts.append(turns_tokenizer.decode(ids))
    assert texts[0] == texts[1] == texts[2] and "'f'" in texts[0]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": CHAT, "weight": 0.5}, "'weight' is not read with these rows; accepted: 'we"),
        ({"messages": CHAT, "images": ["a.png"]}, "'images' is not read with these rows"),
        ({"messages": CHAT, "functions": [{"name": "f"}]}, "'functions' is not read"),
        ({"conversations": 5}, "conversations: found 5; accepted: a list of {from, value}, or"),
        ({"messages": "[" * 100_000}, "messages: maximum recursion depth"),
        ({"messages": CHAT, "chat_template_kwargs": "{"}, "chat_template_kwargs: "),
        ({"messages": CHAT, "chat_template_kwargs": "[1]"}, "found [1]; accepted: a mapping"),
        ({"messages": CHAT, "chat_template_kwargs": {"tools": "x"}}, "kwargs: found tools"),
        (
            {"conversations": [SHAREGPT[0], {"from": "function_call", "value": "f(1)"}]},
            "conversations[1]: function_call: ",
        ),
        (
            {"messages": [CHAT[0], {"role": "assistant", "content": "", "function_call": "f"}]},
            "messages[1]: function_call: found 'f'",
        ),
    ],
    ids=str,
)
def test_what_a_row_says_is_read_or_refused_by_name(
    row: Any, said: str, turns_tokenizer: Any
) -> None:
    with pytest.raises(InputError) as caught:
        table([row], turns_tokenizer)
    assert said in str(caught.value)
    assert table([{"messages": CHAT, "weight": 1, "images": []}], turns_tokenizer)


def test_a_plain_prompt_is_asked_as_it_was_learnt() -> None:
    from tokenizers import processors

    from trainer.generation.text import _ids
    from trainer.tokenizer import Tokenizer

    tokens = ["<s>", "</s>"]
    tokenizer = Tokenizer.train(["Q: A"], vocab_size=300, kind="gpt2", special_tokens=tokens)
    tokenizer.eos_token, tokenizer.bos_token = "</s>", "<s>"
    for around in ("<s> $A </s>", "<s> $A", "$A </s>", "$A"):
        tokenizer.backend.post_processor = processors.TemplateProcessing(
            single=around, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        rows = {"prompt": ["Q:"], "completion": [" A"]}
        ((ids,),) = Instruction(chat=False).features(rows, tokenizer)["input_ids"]
        asked = _ids(tokenizer, "Q:", for_encoder=False)
        assert ids[: len(asked)] == asked and ids[-1] == 1 and 1 not in ids[:-1]
        assert (0 in asked) == around.startswith("<s>")
