"""The generate and chat jobs on a tiny decoder: all forms of prompts, and conversations."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import AutoModelForCausalLM, AutoTokenizer
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.stop_tokens import stop_token_ids
from trainer.generation.text import generate
from trainer.models.config import ModelConfig
from trainer.tokenizer import Tokenizer

PROMPT = "don't, f(x)=[1, 2]"
SHORT = ("generation.max_new_tokens=9", "trainer.precision=fp32")
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 400}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a random Llama and of a tokenizer without a chat template."""
    torch.manual_seed(1)
    tokenizer = Tokenizer.train(
        ["what a happy day for a function"] * 3,
        vocab_size=300,
        kind="gpt2",
        special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    entries = {"model_type": "llama", "vocab_size": len(tokenizer), "initializer_range": 0.5}
    folder = tmp_path_factory.mktemp("decoder")
    model = AutoModelForCausalLM.from_config(ModelConfig({**entries, **SIZES, **HEADS}))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory, decoder: Path) -> Path:
    """The same with a chat template."""
    folder = tmp_path_factory.mktemp("chatty")
    AutoModelForCausalLM.from_pretrained(decoder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(decoder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def expected(folder: Path, prompts: list[Any], **settings: Any) -> list[str]:
    """The Python API's texts for the prompts."""
    model, tokenizer = (
        kind.from_pretrained(folder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    return generate(model, tokenizer, prompts, GenerationSettings(max_new_tokens=9, **settings))


def test_a_prompt_is_taken_as_it_is(ask: Callable[..., Any], decoder: Path) -> None:
    answer = ask("job=generate", f"model.path={decoder}", f"input.prompt={PROMPT}", *SHORT)
    assert answer.code == 0, answer.err
    assert answer.out == expected(decoder, [PROMPT])[0] + "\n"
    assert not list(Path.cwd().iterdir())


def test_beams_and_several_texts_of_a_prompt(ask: Callable[..., Any], decoder: Path) -> None:
    options = {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0}
    given = [f"generation.{name}={value}" for name, value in options.items()]
    prompts = json.dumps([PROMPT, "a happy"])
    answer = ask("job=generate", f"model.path={decoder}", f"input.prompt={prompts}", *given, *SHORT)
    assert answer.code == 0, answer.err
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["prompt"] for row in rows] == [PROMPT, PROMPT, "a happy", "a happy"]
    wanted = expected(decoder, [PROMPT, "a happy"], **options)
    assert [row["completion"] for row in rows] == wanted
    refused = ask("job=chat", f"model.path={decoder}", *given)
    assert refused.code == 2 and "num_return_sequences" in refused.err


def test_several_prompts_of_every_source(
    ask: Callable[..., Any], decoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [PROMPT, "a happy", "day for"]
    drawn = {"temperature": 1.5, "seed": 3}
    wanted = expected(decoder, prompts, **drawn)
    rows = [{"prompt": p, "completion": c} for p, c in zip(prompts, wanted, strict=True)]
    common = ("job=generate", f"model.path={decoder}", *SHORT, "generation.batch_size=2")
    common += ("generation.temperature=1.5", "generation.seed=3")
    answer = ask(*common, f"input.prompt={json.dumps(prompts)}")
    assert answer.code == 0, answer.err
    assert [json.loads(line) for line in answer.out.splitlines()] == rows
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(prompts)))
    assert ask(*common, "input.prompt=-").out == answer.out
    given = "\n".join(json.dumps({"prompt": p, "completion": "was", "n": 1}) for p in prompts)
    Path("in.jsonl").write_text(given + "\n")
    assert ask(*common, "input.file=in.jsonl", "output.file=out/a.jsonl").code == 0
    found = [json.loads(line) for line in Path("out/a.jsonl").read_text().splitlines()]
    assert found == [{**row, "n": 1, "input_completion": "was"} for row in rows]
    other = ask(*common, f"input.prompt={json.dumps(prompts)}", "generation.seed=4")
    assert other.out != answer.out


def test_auto_asks_as_a_user_where_there_is_a_template(
    ask: Callable[..., Any], chatty: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    message = [{"role": "user", "content": "happy?"}]
    asked = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    for chat, prompt in (("auto", asked), ("true", asked), ("false", "happy?")):
        answer = ask(
            "job=generate",
            f"model.path={chatty}",
            "input.prompt=happy?",
            f"input.chat={chat}",
            *SHORT,
        )
        assert answer.out == expected(chatty, [prompt])[0] + "\n", chat


def test_a_chat_keeps_the_conversation(
    ask: Callable[..., Any], chatty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    messages: list[dict[str, str]] = []
    wanted = ""
    for said in ("happy?", "a day"):
        messages.append({"role": "user", "content": said})
        asked = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        (text,) = expected(chatty, [asked])
        messages.append({"role": "assistant", "content": text})
        wanted += text + "\n"
    for said in ("happy?\n\na day\n/exit\nnever\n", "happy?\na day"):
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        answer = ask("job=chat", f"model.path={chatty}", *SHORT)
        assert answer.code == 0, answer.err
        assert answer.out == wanted


def asked(folder: Path, *messages: tuple[str, str]) -> list[int]:
    """The ids of a conversation that ends before an answer."""
    chat = [{"role": role, "content": content} for role, content in messages]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)


def trained_with(folder: Path, **fields: Any) -> None:
    (folder / "recipe.json").write_text(json.dumps({"recipe": "instruction", "fields": fields}))


SYSTEM, USER = ("system", "a day, [1]: {x}"), ("user", "happy?")


def test_a_system_message_is_the_users_or_that_of_the_training(
    ask: Callable[..., Any], chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(chatty, tmp_path / "trained"))
    trained_with(folder, system="function", chat=True)
    given = f"input.system={SYSTEM[1]}"
    for typed, before in (([given], [SYSTEM]), ([], [("system", "function")]), ([given[:13]], [])):
        wanted = expected(chatty, [asked(chatty, *before, USER)])[0] + "\n"
        answer = ask("job=generate", f"model.path={folder}", "input.prompt=happy?", *typed, *SHORT)
        assert answer.out == wanted, answer.err
        monkeypatch.setattr("sys.stdin", io.StringIO("happy?\n"))
        assert ask("job=chat", f"model.path={folder}", *typed, *SHORT).out == wanted


def test_a_template_sees_the_day_of_the_training(
    ask: Callable[..., Any], chatty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(chatty, tmp_path / "dated"))
    tokenizer = AutoTokenizer.from_pretrained(chatty)
    tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }}\n" + TEMPLATE
    tokenizer.save_pretrained(folder)
    trained_with(folder, chat=True, date="2019-08-07")
    messages = [{"role": "user", "content": "happy?"}]
    tokenizer.chat_template = "2019-08-07\n" + TEMPLATE
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    wanted = expected(chatty, [asked])[0] + "\n"
    answer = ask("job=generate", f"model.path={folder}", "input.prompt=happy?", *SHORT)
    assert answer.out == wanted, answer.err
    monkeypatch.setattr("sys.stdin", io.StringIO("happy?\n"))
    assert ask("job=chat", f"model.path={folder}", *SHORT).out == wanted
    (folder / "recipe.json").unlink()  # its training date is unknown
    today = ask("job=generate", f"model.path={folder}", "input.prompt=happy?", *SHORT)
    assert today.code == 0 and today.out != wanted


def test_a_chat_that_outgrows_the_model_goes_on(
    ask: Callable[..., Any],
    chatty: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The oldest turns are dropped, the system message is kept; too long messages get no answer."""
    positions = 100
    folder = tmp_path / "short"
    AutoModelForCausalLM.from_pretrained(chatty, max_position_embeddings=positions).save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(chatty).save_pretrained(folder)
    wanted, left = "", 0
    turns: list[tuple[str, str]] = []
    for said in ("happy?", "a day", "function what", "happy", "day"):
        turns.append(("user", said))
        while len(prompt := asked(folder, SYSTEM, *turns)) > positions - 9:
            turns, left = turns[2:], left + 1
        (text,) = expected(folder, [prompt])
        turns.append(("assistant", text))
        wanted += text + "\n"
    assert left > 1
    lines = ["happy?", "a day", "z" * positions, "function what", "happy", "day"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    answer = ask("job=chat", f"model.path={folder}", f"input.system={SYSTEM[1]}", *SHORT)
    assert (answer.code, answer.out) == (0, wanted), answer.err
    assert "chat: the oldest messages were dropped; the model has 100 positions" in caplog.messages
    assert any(line.startswith("chat: not answered: found 1") for line in caplog.messages)


def test_rows_of_messages_are_answered(
    ask: Callable[..., Any], refused: Callable[..., str], chatty: Path
) -> None:
    own = [("system", "what"), USER, ("assistant", "day"), ("user", "a")]
    chats = [[USER], own]
    rows = [[{"role": role, "content": content} for role, content in chat] for chat in chats]
    Path("in.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    common = ("job=generate", f"model.path={chatty}", "input.file=in.jsonl", *SHORT)
    answer = ask(*common, f"input.system={SYSTEM[1]}")
    assert answer.code == 0, answer.err
    found = [json.loads(line) for line in answer.out.splitlines()]
    prompts = [asked(chatty, SYSTEM, USER), asked(chatty, *own)]
    assert [row["completion"] for row in found] == expected(chatty, prompts)
    assert [row["messages"] for row in found] == rows
    said = refused(*common, "input.chat=false")
    assert said == "input.chat: found false for messages; accepted: true"
    with Path("in.jsonl").open("a") as file:
        file.write(json.dumps({"messages": rows[1][:3]}) + "\n")
    answer = ask(*common, "generation.batch_size=2")
    said = "error: input.file: in.jsonl:3: messages: the last one is an answer; accepted"
    assert (answer.code, answer.err[: len(said)]) == (2, said)


def test_a_model_trained_without_its_template_is_asked_without(
    ask: Callable[..., Any], refused: Callable[..., str], chatty: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(chatty, tmp_path / "plain"))
    trained_with(folder, system="unheard", chat=False)
    common = ("job=generate", f"model.path={folder}", "input.prompt=happy?", *SHORT)
    answer = ask(*common)
    assert answer.out == expected(chatty, ["happy?"])[0] + "\n", answer.err
    assert ask(*common, "input.chat=true", "input.system=").out == (
        expected(chatty, [asked(chatty, USER)])[0] + "\n"
    )
    said = refused(*common, "input.system=a")
    assert said == "input.chat: found false for a system message; accepted: true"
    said = "input.chat: false, or the model was trained without a chat template; accepted"
    assert refused("job=chat", f"model.path={folder}").startswith(said)


def test_ends_are_those_of_model_tokenizer_folder_and_chats(chatty: Path, tmp_path: Path) -> None:
    model, tokenizer = (
        kind.from_pretrained(chatty) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    turn = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert stop_token_ids(model, tokenizer) == sorted({tokenizer.eos_token_id, turn})
    model.config.eos_token_id = [7, 9]
    model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text('{"eos_token_id": [9, 11], "top_k": 5}')
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert stop_token_ids(model, tokenizer) == sorted({tokenizer.eos_token_id, turn, 7, 9, 11})
    model.save_pretrained(tmp_path)
    assert json.loads(file.read_text())["top_k"] == 5
    for text, said in (
        ("[]", "found list; accepted: a JSON object"),
        ("{", "not readable as JSON"),
        ('{"eos_token_id": "x"}', "eos_token_id: found 'x'; accepted: ids of tokens"),
    ):
        file.write_text(text)
        with pytest.raises(InputError, match=said):
            AutoModelForCausalLM.from_pretrained(tmp_path)


def test_generation_stops_where_the_folder_says(
    ask: Callable[..., Any], decoder: Path, tmp_path: Path
) -> None:
    model, tokenizer = (
        kind.from_pretrained(decoder) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    ids = model.generate(torch.tensor([tokenizer("a happy")["input_ids"]]), max_new_tokens=9)[0]
    new = ids[len(tokenizer("a happy")["input_ids"]) :].tolist()
    folder = tmp_path / "ends"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": new[3]}))
    answer = ask("job=generate", f"model.path={folder}", "input.prompt=a happy", *SHORT)
    kept = new[: new.index(new[3]) + 1]
    assert answer.out == tokenizer.decode(kept, skip_special_tokens=True) + "\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("job=generate",), "input: no prompt; accepted: either input.prompt or"),
        (("job=generate", "input.prompt=a", "input.file=b"), "input: both; accepted"),
        (("job=generate", "input.text=a"), "input.text: job=generate takes input.prompt"),
        (("job=generate", "input.prompt=a", "generation.top_p=2"), "generation.top_p: found 2"),
        (("job=generate", "input.prompt=a", "generation.topp=1"), "generation.topp: "),
        (("job=generate", "input.prompt=a", "input.chat=maybe"), "input.chat: found 'maybe'"),
        (("job=generate", "input.file=none.jsonl"), "input.file: "),
        (("job=chat", "input.prompt=a"), "input.prompt: job=chat has no such input"),
        (("job=predict", "input.system=a", "recipe=sequence_classification"), "input.system: job="),
        (("job=predict", "input.chat=true", "recipe=sequence_classification"), "input.chat: job="),
        (("job=predict", "input.chat=false", "recipe=sequence_classification"), "input.chat: job="),
        (("job=chat", "launch.num_processes=2"), "launch.num_processes: found 2 for job=chat"),
        (("generation.seed=1",), "generation.seed: job=train has no generation"),
        (("job=predict", "input.prompt=a", "recipe=causal_lm"), "recipe: CausalLM has no answers"),
    ],
)
def test_what_cannot_be_gone_on_with_is_refused(
    refused: Callable[..., str], decoder: Path, arguments: Any, said: str
) -> None:
    assert refused(f"model.path={decoder}", *arguments).startswith(said)


def test_a_tokenizer_that_knows_more_than_the_model_is_refused(
    refused: Callable[..., str], decoder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = AutoModelForCausalLM.from_pretrained(decoder)
    model.resize_token_embeddings(40)
    folder = tmp_path_factory.mktemp("small")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(decoder).save_pretrained(folder)
    for job in (("job=generate", "input.prompt=a happy"), ("job=chat",)):
        said = refused(f"model.path={folder}", *job)
        assert said.startswith("tokenizer: has ") and ", the model 40 embeddings; " in said
