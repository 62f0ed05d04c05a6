"""The jobs train, resume, evaluate and reload families that only transformers has."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recipes.causal_lm import CausalLM
from recipes.sequence_classification import SequenceClassification
from tests.interop.foreign import save_foreign, still
from tests.jobs.conftest import DATA
from trainer import AutoTokenizer
from trainer.errors import InputError
from trainer.interop.padded_loading import load_padded
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

transformers = pytest.importorskip("transformers")

FAST = ("trainer.learning_rate=3e-3", "trainer.num_epochs=2", "trainer.global_batch_size=16")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> Path:
    """A folder of random models with MiniLM's tokenizer, one for each model type."""
    home = tmp_path_factory.mktemp("foreign")
    for name in ("roformer", "opt", "phi", "bloom", "gpt_neox", "convbert", "m2m_100"):
        folder = save_foreign(name, home / name)
        AutoTokenizer.from_pretrained(minilm).save_pretrained(folder)
    return home


def gradients(folder: Path, task: str, split: int | None) -> torch.Tensor:
    """The change of the weights in one step of SGD with a rate of 1."""
    rows: list[dict[str, Any]] = [
        {"input_ids": [101, *range(7, 8 + 3 * n), 102]} for n in range(1, 9)
    ]
    recipe: Any = CausalLM(max_length=16)
    overrides = {}
    if task == "sequence_classification":
        rows = [{**row, "labels": len(row["input_ids"]) % 2} for row in rows]
        recipe = SequenceClassification(labels=["a", "b"], problem="single_label")
        overrides = dict(recipe.head.config)
    model = still(folder, task, **overrides)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    settings = TrainSettings(
        global_batch_size=8, max_steps=1, learning_rate=1.0, optimizer="sgd", warmup_steps=0,
        lr_scheduler="constant", precision="fp32", micro_batch_size=split, weight_decay=0.0,
        max_grad_norm=0.0,
    )  # fmt: skip
    Trainer(model, recipe, settings, train_dataset=rows).fit()
    return before - torch.nn.utils.parameters_to_vector(model.parameters()).detach()


@pytest.mark.parametrize(
    ("name", "task"),
    [("roformer", "sequence_classification"), ("opt", "causal_lm"), ("phi", "causal_lm"),
     ("opt", "sequence_classification")],
)  # fmt: skip
def test_any_split_gives_one_gradient(folders: Path, name: str, task: str) -> None:
    whole, *others = (gradients(folders / name, task, split) for split in (None, 1, 3))
    assert whole.norm() > 0
    for other in others:
        assert (other - whole).norm() <= 1e-12 * whole.norm()


@pytest.mark.parametrize("name", ["opt", "phi", "bloom", "gpt_neox"])
def test_loss_and_gradients_are_those_of_transformers(folders: Path, name: str) -> None:
    model = still(folders / name, "causal_lm").train()
    ids, lengths = torch.arange(3, 17), torch.tensor([9, 5])
    from trainer.tasks.losses import next_token_loss

    found = next_token_loss(model(ids, lengths).projection, ids)
    found.sum.backward()  # type: ignore[no-untyped-call]
    ours = {name: p.grad.clone() for name, p in model.inner.named_parameters()}
    model.zero_grad()
    theirs = sum(
        model.inner(input_ids=row[None], labels=row[None]).loss * (len(row) - 1)
        for row in ids.split([9, 5])
    )
    theirs.backward()
    assert found.sum.item() == pytest.approx(theirs.item(), rel=1e-6)  # computed in fp32
    for name, parameter in model.inner.named_parameters():
        assert torch.allclose(ours[name], parameter.grad, rtol=1e-4, atol=1e-6), name


RECIPES = {
    "roformer": ("recipe=sequence_classification",),
    "opt": ("recipe=causal_lm", "recipe.max_length=16"),
    "m2m_100": (
        "recipe=seq2seq", "recipe.source=text", "recipe.target=text", "recipe.max_source_length=16",
        "recipe.max_target_length=8", "recipe.evaluate_texts=true",
    ),
    "opt with adapters": (
        "recipe=causal_lm", "recipe.max_length=16", "model.lora.rank=4", "model.lora.dropout=0.1",
        "trainer.ema_decay=0.9", "trainer.gradient_checkpointing=true",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in ("roformer", "opt", "m2m_100")),
     "opt with adapters"],
)  # fmt: skip
def test_a_run_resumes_bit_for_bit(
    ask: Callable[..., Any],
    table: Path,
    folders: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    """With dropout; job=evaluate then gives the run's metrics."""
    arguments = (f"model.path={folders / name.split()[0]}", *RECIPES[name], *DATA, *FAST)
    arguments = (*arguments, "trainer.save_steps=4", "trainer.precision=fp32")
    answer = ask(*arguments, "output_dir=run")
    assert answer.code == 0, answer.err
    assert "runs in transformers, with padded batches" in caplog.text
    shutil.copytree("run", "killed")
    shutil.rmtree("killed/model")
    Path("killed/results.json").unlink()
    saved = sorted(Path("killed").glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    for folder in saved[1:]:
        shutil.rmtree(folder)
    assert len(saved) > 1
    answer = ask(*arguments, "output_dir=killed")
    assert answer.code == 0, answer.err
    file = "adapter_model.safetensors" if "adapters" in name else "model.safetensors"
    weights = [Path(run, "model", file).read_bytes() for run in ("run", "killed")]
    assert weights[0] == weights[1]
    assert ask("from=run", "job=evaluate", "output_dir=e", "trainer.precision=fp32").code == 0
    wanted = json.loads(Path("run/results.json").read_text())["metrics"]["eval_loss"]
    evaluated = "e/evaluation.json"
    found = json.loads(Path(evaluated).read_text())["metrics"]["eval_loss"]
    assert found == pytest.approx(wanted, rel=1e-5)
    if "adapters" in name:
        answer = ask("job=merge", "model.path=run/model", "output.path=whole")
        assert answer.code == 0, answer.err
        transformers.AutoModelForCausalLM.from_pretrained("whole")
    if name == "m2m_100":
        check_written_texts(ask)


def check_written_texts(ask: Callable[..., Any]) -> None:
    """job=predict and job=generate of the run in this folder write what transformers writes."""
    fp32 = "trainer.precision=fp32"
    predicted = ask("job=predict", "model.path=run/model", "input.text=a lovely day", fp32)
    assert predicted.code == 0, predicted.err
    fast = ("generation.max_new_tokens=8", "input.prompt=a lovely day", fp32)
    written = ask("job=generate", "model.path=run/model", *fast)
    assert written.code == 0, written.err
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained("run/model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    ids = tokenizer("a lovely day", return_tensors="pt")["input_ids"]
    found = theirs.generate(ids, max_new_tokens=8, do_sample=False)[0, 1:].tolist()
    text = tokenizer.decode(found, skip_special_tokens=True).strip()
    assert written.out.strip() == json.loads(predicted.out)["prediction"].strip() == text


def test_predictions_are_those_of_transformers(
    ask: Callable[..., Any], table: Path, folders: Path
) -> None:
    arguments = (f"model.path={folders / 'roformer'}", *DATA, *FAST, "trainer.max_steps=2")
    assert ask(*arguments, "output_dir=run").code == 0
    fp32 = "trainer.precision=fp32"
    told = ask("job=predict", "model.path=run/model", "input.text=a lovely day", fp32)
    assert told.code == 0, told.err
    auto = transformers.AutoModelForSequenceClassification
    theirs = auto.from_pretrained("run/model", dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained("run/model")("a lovely day", return_tensors="pt")
    scores = theirs(ids["input_ids"]).logits.softmax(-1)[0].tolist()
    found = json.loads(told.out)["probabilities"]
    assert [found[theirs.config.id2label[n]] for n in (0, 1)] == pytest.approx(scores, rel=1e-4)


@pytest.mark.slow
def test_tags_are_learnt(ask: Callable[..., Any], alone: None, folders: Path) -> None:
    rows = [{"tokens": ["Ann", "went", "home"], "tags": ["B-per", "O", "O"]}] * 24
    rows += [{"tokens": ["we", "saw", "Bob"], "tags": ["O", "O", "B-per"]}] * 24
    Path("train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    answer = ask(
        f"model.path={folders / 'roformer'}", "recipe=token_classification",
        "recipe.max_length=16", "dataset.train=train.jsonl", "dataset.validation=train.jsonl",
        "output_dir=run", *FAST, "trainer.num_epochs=12", "trainer.learning_rate=1e-2",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert json.loads(Path("run/results.json").read_text())["metrics"]["eval_entity_f1"] > 0.9


def test_a_model_whose_outputs_depend_on_pads_says_so(
    folders: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(2)  # draws a new head whose outputs are small, and so are their changes
    load_padded(folders / "convbert", "token_classification", {})
    assert "depend on pads" in caplog.text
    caplog.clear()
    load_padded(folders / "roformer", "token_classification", {})
    assert "depend on pads" not in caplog.text


def test_what_does_not_fit_is_refused(
    ask: Callable[..., Any], table: Path, folders: Path, tmp_path: Path
) -> None:
    model = f"model.path={folders / 'roformer'}"
    own = tmp_path / "own"
    shutil.copytree(folders / "roformer", own)
    entries = json.loads((own / "config.json").read_text())
    entries |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (own / "config.json").write_text(json.dumps(entries))
    cases = {
        (model, "model.backend=native"): "model_type: found 'roformer'",
        (
            model,
            "model.lora.rank=4",
            "model.lora.targets=[querry]",
        ): "'querry' is not a linear layer",
        (model, "recipe=masked_lm"): "recipe: found the head masked_lm",
        (model, "recipe.max_length=129"): "recipe.max_length: found 129; accepted: at most 128",
        (model, "model.config.hidden_sizes=3"): "found the entry 'hidden_sizes'",
        (model, "trainer.compile=true"): "trainer.compile: found true",
        (f"model.path={own}",): "mine",
    }
    for arguments, wanted in cases.items():
        answer = ask(*arguments, *DATA, "output_dir=x")
        assert answer.code == 2, (arguments, answer.err)
        last = [line for line in answer.err.splitlines() if wanted in line]
        assert last, (arguments, answer.err)


def test_a_trained_decoder_writes_and_chats(
    ask: Callable[..., Any], table: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With samples of its texts while it trains."""
    arguments = (f"model.path={folders / 'opt'}", *RECIPES["opt"], *DATA, *FAST)
    samples = ("callbacks=samples", "callbacks.samples.generation.max_new_tokens=4")
    answer = ask(*arguments, *samples, "trainer.max_steps=3", "output_dir=run")
    assert answer.code == 0, answer.err
    assert Path("run/samples.jsonl").read_text()
    assert "job=generate model.path=run/model" in answer.err + answer.out
    assert "padding avoided" not in answer.err + answer.out
    fast = ("model.path=run/model", "generation.max_new_tokens=6", "trainer.precision=fp32")
    written = ask("job=generate", *fast, "input.prompt=a lovely day")
    assert written.code == 0, written.err
    theirs = transformers.AutoModelForCausalLM.from_pretrained("run/model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained("run/model")
    ids = torch.tensor([[101, *tokenizer("a lovely day", add_special_tokens=False)["input_ids"]]])
    found = theirs.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :]
    text = tokenizer.decode(found.tolist(), skip_special_tokens=True)
    assert written.out.strip() == text.strip()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    tokenizer.save_pretrained("run/model")
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\nand then?\n"))
    chatted = ask("job=chat", *fast)
    assert chatted.code == 0, chatted.err
    assert chatted.out.count("\n") == 2
    serve = ask("job=serve", "model.path=run/model")
    assert serve.code == 2 and "accepted with job=serve: a native family" in serve.err


def test_without_the_extra_it_is_named(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainer.interop import padded_loading

    monkeypatch.setattr(padded_loading, "_is_installed", lambda: False)
    with pytest.raises(InputError, match=r'pip install "tempering\[transformers\]"'):
        load_padded(folders / "roformer", "token_classification", {})
