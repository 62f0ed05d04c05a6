"""Whole trainings on a pretended GPU: steps, evaluations, checkpoints, samples and resuming."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from tests.cuda.device import Device, Trace
from tests.unit.test_exactness import RECIPES, ragged_table, tiny_model
from tests.unit.text_runs import CASES
from trainer.callbacks.callback import Callback
from trainer.callbacks.samples import Samples
from trainer.errors import InputError
from trainer.generation.settings import GenerationSettings
from trainer.generation.token_ids import generate_ids
from trainer.models.heads.projection import Projection
from trainer.settings import TrainSettings
from trainer.trainer import Trainer

PER_STEP = (
    "trainer/training/step.py",
    "trainer/training/device_update.py",
    "trainer/models",
    "trainer/tasks/losses.py",
    "trainer/tasks/loss_on_gpu.py",
    "trainer/data",
    "trainer/trainer.py",
    "recipes",
)
"""Places at which every step waits, not only an evaluation or a checkpoint."""


@pytest.fixture(autouse=True)
def process_as_found() -> Iterator[None]:
    """Reset Accelerate's device and the switches for deterministic kernels after each test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    torch.use_deterministic_algorithms(False)


def classifier(folder: Path | None = None, **settings: Any) -> Trainer:
    values = {"global_batch_size": 16, "max_steps": 2, "save_steps": 1, "eval_steps": 2}
    values |= {"logging_steps": 1, "precision": "bf16"}
    return Trainer(
        tiny_model().float(),
        RECIPES["single_label"],
        TrainSettings(**{**values, **settings}),
        train_dataset=ragged_table(64),
        eval_dataset=ragged_table(20),
        output_dir=folder,
    )


def writer(case: str, folder: Path | None, callbacks: list[Callback], **settings: Any) -> Trainer:
    values = {"global_batch_size": 5, "max_steps": 2, "save_steps": 2, "eval_steps": 2}
    return Trainer(
        CASES[case].model().float(),
        CASES[case].recipe,
        TrainSettings(**{**values, "precision": "bf16", **settings}),
        tokenizer=CASES[case].tokenizer,
        train_dataset=list(CASES[case].rows),
        eval_dataset=list(CASES[case].rows[:5]),
        callbacks=callbacks,
        output_dir=folder,
    )


def waits_of_steps(trace: Trace) -> Counter[str]:
    """The waits at places that every step reaches."""
    places = {place.split(" at ")[1]: n for place, n in trace.waits.items()}
    return Counter({place: n for place, n in places.items() if place.startswith(PER_STEP)})


@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "fp32"},
        {"precision": "fp16", "gradient_checkpointing": True},
        {"precision": "bf16", "deterministic": True, "ema_decay": 0.9, "async_save": False},
    ],
    ids=lambda settings: " ".join(map(str, settings.values())),
)
def test_a_step_waits_for_the_numbers_of_the_last_one_alone(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """Evaluations and checkpoints work too, under all settings."""
    with Device() as device:
        trainer = classifier(tmp_path / "run", **settings)
        assert trainer.ranks.device.type == "cuda"
        with device.traced() as trace:
            trainer.fit()
        assert all(p.device.type == "cuda" for p in trainer.model.parameters())
    assert not waits_of_steps(trace)
    read = {p: n for p, n in trace.events.items() if p.startswith(PER_STEP)}
    assert sum(read.values()) == 2, read
    assert {p.name for p in (tmp_path / "run").iterdir()} >= {
        "checkpoint-1",
        "checkpoint-2",
        "model",
    }


def test_a_run_is_gone_on_with_from_what_it_saved(tmp_path: Path) -> None:
    with Device():
        classifier(tmp_path, max_steps=1).fit()
        AcceleratorState._reset_state(reset_partial_state=True)
        resumed = classifier(tmp_path, max_steps=2, allow_changes=["max_steps"])
        resumed.fit()
        assert resumed.state.step == 2
        state = next(iter(resumed.session.optimizer.state.values()))
        assert state["exp_avg"].device.type == "cuda"


def test_the_largest_micro_batch_is_searched_for_where_none_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Batches that do not fit raise torch's error, as on a GPU."""
    with Device():
        trainer = Trainer(
            tiny_model().float(),
            RECIPES["single_label"],
            TrainSettings(global_batch_size=16, max_steps=2, precision="bf16"),
            train_dataset=ragged_table(64),
        )
        tried: list[int] = []

        def before(_: object, arguments: tuple[Any, ...], inputs: dict[str, Any]) -> None:
            tried.append(len(inputs["input_ids"]))
            if tried[-1] > 200:
                raise torch.OutOfMemoryError("CUDA out of memory")

        trainer.model.register_forward_pre_hook(before, with_kwargs=True)
        trainer.fit()
        assert max(tried) > 200 and trainer.session.max_tokens <= 200


@pytest.mark.parametrize("case", ["blocks, window", "chats, adapters"])
def test_a_language_model_trains_evaluates_and_writes_samples(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling with `deterministic=true`, which refuses float sums in arbitrary order.

    An evaluation computes no logits.
    """
    how = GenerationSettings(max_new_tokens=3, temperature=0.7, top_p=0.9, repetition_penalty=1.2)
    with Device() as device:
        samples = Samples(["hello", "why so?"], how)
        trainer = writer(case, tmp_path, [samples], deterministic=True)
        with device.traced() as trace:
            trainer.fit()
        monkeypatch.setattr(Projection, "logits", None)
        trainer.evaluate()
    assert not waits_of_steps(trace)
    texts = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert len(texts) == 4 and (tmp_path / "checkpoint-2" / "manifest.json").exists()


@pytest.mark.parametrize(
    "case",
    ["targets, t5", "targets, bart, adapters", "pairs, dpo", "embeddings, two texts a pass"],
)
def test_other_recipes_train_and_evaluate_without_a_wait_in_a_step(
    case: str, tmp_path: Path
) -> None:
    """Encoder-decoders, logged figures, and texts in several passes."""
    with Device() as device:
        trainer = writer(case, tmp_path, [], global_batch_size=6, logging_steps=1)
        with device.traced() as trace:
            trainer.fit()
    waits = {place.split(":")[0]: n for place, n in waits_of_steps(trace).items()}
    bias = {"trainer/models/heads/layers.py": 1}  # BART's fixed bias, which is checked once per run
    assert waits == (bias if "bart" in case else {})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", *CASES[case].recipe.step_figures} <= rows[0].keys()
    assert (tmp_path / "checkpoint-2" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("case", "temperature"),
    [("blocks, llama", 0.0), ("blocks, window", 0.7), ("blocks, gpt2", 0.7)],
)
def test_generation_waits_once_a_token(case: str, temperature: float) -> None:
    settings = GenerationSettings(max_new_tokens=4, temperature=temperature)
    with Device() as device:
        model = CASES[case].model().float().to("cuda")
        with device.traced() as trace, torch.autocast("cuda", torch.bfloat16):
            found = generate_ids(model, [[5, 6, 7], [8]], settings, end_ids=[])
        assert [len(ids) for ids in found] == [4, 4]
        assert trace.waits.total() == 4, trace.waits


@pytest.mark.parametrize(("capability", "triton"), [((9, 0), False), ((6, 1), True)])
def test_compiling_without_a_compiler_is_refused(capability, triton) -> None:
    refused = pytest.raises(InputError, match=r"^trainer.compile: found true, and torch has no")
    with Device(capability, triton=triton), refused:
        classifier(compile=True).fit()
