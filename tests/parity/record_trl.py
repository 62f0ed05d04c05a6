"""Records the losses and gradients that trl's trainers give, for tests/parity/test_trl.py.

Run it where trl 1.16.0 is installed: python -m tests.parity.record_trl
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

FIXTURE = Path(__file__).with_name("fixtures") / "trl_losses.json"
WORDS = [f"w{number}" for number in range(30)]
SIZES = {
    "vocab_size": 40,
    "hidden_size": 12,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
}
PAIRS = [
    {"prompt": "w1 w2 w3", "chosen": " w4 w5", "rejected": " w6 w7 w8"},
    {"prompt": "w9", "chosen": " w10 w11 w12 w13", "rejected": " w14"},
    {"prompt": "w2 w3 w4 w5 w6", "chosen": " w7", "rejected": " w8 w9"},
    {"prompt": "w20 w21", "chosen": " w22 w23 w24", "rejected": " w25 w26 w27 w28 w29"},
]
SINGLES = [
    {"prompt": row["prompt"], "completion": row["rejected" if number % 2 else "chosen"],
     "label": not number % 2}
    for number, row in enumerate(PAIRS)
]  # fmt: skip
REFERENCE = 0.8
"""The phase of the reference's weights; the policy's is 0."""
KINDS: dict[str, dict[str, Any]] = {
    "dpo": {"beta": 0.3},
    "dpo, smoothed": {"beta": 0.3, "label_smoothing": 0.2},
    "hinge": {"beta": 0.3},
    "ipo": {"beta": 0.3},
    "cpo": {"beta": 0.3, "nll_weight": 0.7},
    "cpo, smoothed": {"beta": 0.3, "nll_weight": 0.0, "label_smoothing": 0.2},
    "simpo": {"beta": 2.0, "margin": 0.8},
    "orpo": {"beta": 0.3},
    "kto": {"beta": 0.3, "desirable_weight": 1.2, "undesirable_weight": 0.7},
}


def formula(model: torch.nn.Module, phase: float) -> Any:
    """The model with weights from a formula, so that they are the same everywhere."""
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            places = torch.arange(weight.numel(), dtype=torch.float64)
            wave = torch.sin(places * (1.7 + 0.1 * number) + number + phase).view(weight.shape)
            weight.copy_(1 + 0.1 * wave if "norm" in name else 0.4 * wave)
    return model


def summary(gradients: dict[str, torch.Tensor]) -> dict[str, list[float]]:
    """The norm of each gradient, and its product with a wave."""
    found = {}
    for name, gradient in gradients.items():
        flat = gradient.detach().double().flatten()
        wave = torch.cos(torch.arange(len(flat), dtype=torch.float64) * 0.9)
        found[name] = [float(flat.norm()), float(flat @ wave)]
    return found


def hub_model(phase: float) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    return formula(model.double(), phase)


def tokenizer() -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def trainer_of(kind: str, rows: list[dict[str, Any]], folder: str) -> Any:
    """trl's trainer of a kind, with a policy and a reference model if the kind has one."""
    from datasets import Dataset

    options = dict(KINDS[kind])
    name = kind.split(",")[0]
    shared: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": len(rows),
        "beta": options["beta"],
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
    }
    given = {"model": hub_model(0.0), "train_dataset": Dataset.from_list(rows)}
    given["processing_class"] = tokenizer()
    if name in ("dpo", "hinge", "ipo"):
        from trl import DPOConfig, DPOTrainer

        loss = "sigmoid" if name == "dpo" else name
        smoothing = options.get("label_smoothing", 0.0)
        if smoothing:
            # sigmoid ignores label smoothing in this version; aot of a single row is the same loss
            loss = "aot"
        args = DPOConfig(**shared, loss_type=[loss], label_smoothing=smoothing)
        return DPOTrainer(ref_model=hub_model(REFERENCE), args=args, **given)
    if name == "kto":
        from trl import KTOConfig, KTOTrainer

        weights = {key: options[key] for key in ("desirable_weight", "undesirable_weight")}
        return KTOTrainer(
            ref_model=hub_model(REFERENCE), args=KTOConfig(**shared, **weights), **given
        )
    if name == "orpo":
        from trl.experimental.orpo import ORPOConfig, ORPOTrainer

        return ORPOTrainer(args=ORPOConfig(**shared), **given)
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    extra: dict[str, Any] = {"label_smoothing": options.get("label_smoothing", 0.0)}
    if name == "simpo":
        extra |= {"loss_type": "simpo", "simpo_gamma": options["margin"], "cpo_alpha": 0.0}
    else:
        extra |= {"loss_type": "sigmoid", "cpo_alpha": options["nll_weight"]}
    return CPOTrainer(args=CPOConfig(**shared, **extra), **given)


def record(kind: str) -> dict[str, Any]:
    """The loss and the gradients of a kind on all rows.

    trl averages the loss per token over the batch's tokens; we average over samples. So each row of
    such a kind is a separate batch in trl.
    """
    rows = SINGLES if kind == "kto" else PAIRS
    by_row = kind in ("orpo", "cpo", "dpo, smoothed")
    batches = [[row] for row in rows] if by_row else [rows]
    total, gradients = 0.0, {}
    for batch in batches:
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(kind, batch, folder)
            inputs = trainer.data_collator([trainer.train_dataset[i] for i in range(len(batch))])
            for model in (trainer.model, getattr(trainer, "ref_model", None)):
                if model is not None:
                    model.double().eval()
            trainer.model.zero_grad()
            loss = trainer.compute_loss(trainer.model, inputs)
            loss.backward()
            total += float(loss) / len(batches)
            for name, weight in trainer.model.named_parameters():
                gradients[name] = gradients.get(name, 0) + weight.grad / len(batches)
    return {"loss": total, "gradients": summary(gradients)}


def main() -> None:
    """Write the fixture."""
    import trl

    os.environ["HF_HUB_OFFLINE"] = "1"
    found = {kind: record(kind) for kind in KINDS}
    command = "python -m tests.parity.record_trl"
    content = {"made by": f"{command}, trl {trl.__version__}", "kinds": found}
    FIXTURE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
