"""Runs of tiny models with the text recipes, shared by several tests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from recipes.causal_lm import CausalLM
from recipes.distillation import Distillation
from recipes.instruction import Instruction
from recipes.language_distillation import LanguageDistillation
from recipes.masked_lm import MaskedLM
from recipes.multi_task import MultiTask
from recipes.multiple_choice import MultipleChoice
from recipes.preference import Preference
from recipes.question_answering import QuestionAnswering
from recipes.reranking import Reranking
from recipes.reward_modelling import RewardModelling
from recipes.sentence_embedding import SentenceEmbedding
from recipes.seq2seq import Seq2Seq
from recipes.sequence_classification import SequenceClassification
from recipes.token_classification import TokenClassification
from recipes.unpaired_preference import UnpairedPreference
from trainer.callbacks.callback import Callback
from trainer.data.in_memory_rows import as_table
from trainer.data.mixed_rows import MixedRows, SourceRows
from trainer.devices.options import DeviceOptions
from trainer.models.adapters.lora_settings import LoRASettings
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.runs.context import RunContext
from trainer.settings import TrainSettings
from trainer.tasks.recipe import Recipe
from trainer.tokenizer import Tokenizer
from trainer.trainer import Trainer

WORDS = "hello world, what is two and two? four, of course. why so?"
TEXTS = [{"text": f"{WORDS} " * (n % 3) + WORDS[: 7 + 5 * n]} for n in range(9)]
CHATS = [
    {
        "messages": [
            {"role": role, "content": f"{WORDS[turn : 9 + 3 * n]} {turn}"}
            for turn, role in enumerate(("user", "assistant") * (1 + n % 3))
        ]
    }
    for n in range(14)
]
PAIRS = [
    {"prompt": WORDS[n : 12 + 3 * n], "chosen": f"{n} {WORDS[: 5 + 2 * n]}", "rejected": f"no {n}"}
    for n in range(13)
]
SINGLES = [
    {
        "prompt": pair["prompt"],
        "completion": pair["chosen" if n % 3 else "rejected"],
        "label": bool(n % 3),
    }
    for n, pair in enumerate(PAIRS)
]
CHOICES = [
    {
        "text": WORDS[: 9 + 2 * n],
        "choices": [f"{word} {n}" for word in WORDS.split()[: 2 + n % 3]],
        "label": n % 2,
    }
    for n in range(12)
]
TAGGED = [
    {
        "tokens": (words := WORDS.split()[: 3 + n] * (1 + n % 3)),
        "tags": ["B-x" if "w" in word else "I-x" if "o" in word else "O" for word in words],
    }
    for n in range(11)
]
TAGS: dict[str, Any] = {
    **{"text": "tokens", "label": "tags", "scheme": "BIO", "labels": ["O", "B-x", "I-x"]},
    **{"repair": True, "max_length": 16, "stride": 5},
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "attention_dropout": 0.1,
}
ANSWERS = ("hello", "two and two", "of course", None)
QUESTIONS = [
    {
        "question": f"what is it {n}?",
        "context": (context := f"{WORDS} " * (1 + n % 4)),
        "answers": None
        if (answer := ANSWERS[n % 4]) is None
        else [{"text": answer, "answer_start": context.rindex(answer)}],
    }
    for n in range(13)
]
BERT = {
    "model_type": "bert",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
}
TRIPLETS = [
    {
        "text": f"{WORDS[n : n + 9]} {n}",
        "text_pair": f"{WORDS[n : n + 14]} {n}",
        "negative": [f"{WORDS[n + k : n + 11]} {n + k}" for k in range(1, 2 + n % 3)],
    }
    for n in range(15)
]
SCORED = [
    {"text": row["text"], "text_pair": row["text_pair"], "label": n % 6 / 5}
    for n, row in enumerate(TRIPLETS)
]
WRITING = Seq2Seq("prompt", "chosen", max_source_length=20, max_target_length=24)
STARTS = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1}
T5 = {
    **{"model_type": "t5", "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4},
    **STARTS,
}
BART = {
    **{"model_type": "bart", "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, **STARTS},
    **{"encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 256},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "attention_dropout": 0.1},
}
GPT2 = {"model_type": "gpt2", "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 256}

LABELLED = [{"text": WORDS[: 9 + 4 * n], "label": "abc"[n % 3]} for n in range(11)]
CLASSES: dict[str, Any] = {"problem": "single_label", "labels": ["a", "b", "c"], "max_length": 48}
TASKS_OF_ROWS = [
    {**row, "task": task}
    for several in zip(
        LABELLED,
        [{"words": row["tokens"], "tags": row["tags"]} for row in TAGGED],
        [row for row in QUESTIONS if row["answers"] is not None][:4],
        [
            {"stem": row["text"], "choices": row["choices"], "right": row["label"]}
            for row in CHOICES
            if len(row["choices"]) != 3 or row["label"]
        ],
        strict=False,
    )
    for task, row in zip(("kind", "tags", "answer", "choice"), several, strict=True)
    if task != "tags" or len(row["tags"]) != 8
]
"""Rows of four tasks; some global batches of five lack one of them."""
MANY = MultiTask(
    tasks={
        "kind": SequenceClassification(
            **CLASSES, class_weights={"a": 0.5, "b": 2.0, "c": 1.0}, r_drop=0.5
        ),
        "tags": TokenClassification(**{**TAGS, "text": "words"}, crf=True),
        "answer": QuestionAnswering(max_length=40, stride=16),
        "choice": MultipleChoice(text="stem", label="right", max_length=48),
    },
    weights={"kind": 0.3, "tags": 0.1, "answer": 0.2, "choice": 0.2},
)


@dataclass(frozen=True)
class Case:
    """A recipe, a model's config and rows to train on."""

    recipe: Recipe
    rows: Sequence[dict[str, Any]] | MixedRows
    entries: dict[str, Any]
    lora: LoRASettings | None = None
    words: "Callable[[], Tokenizer] | None" = None
    """The tokenizer; None: `tokenizer`"""

    @property
    def tokenizer(self) -> Tokenizer:
        return (self.words or tokenizer)()

    def model(self) -> Any:
        torch.manual_seed(1)
        head = self.recipe.head
        entries = {"vocab_size": len(self.tokenizer) + 3, **self.entries, **head.config}
        model = TASKS[head.task].from_config(ModelConfig(entries)).double()
        if self.lora is not None:
            model.add_lora(self.lora, "nowhere")
        return model

    def held_out(self) -> Any:
        """Five of the rows; of a mixture five of each source."""
        if not isinstance(self.rows, MixedRows):
            return list(self.rows[:5])
        return {name: source.rows.select(range(5)) for name, source in self.rows.sources.items()}

    def trainer(
        self,
        folder: Path | None = None,
        callbacks: Sequence[Callback] = (),
        evaluated: bool = True,
        **settings: Any,
    ) -> Trainer:
        """Global batches of 5 samples, or 6 with groups; the last one of an epoch is short."""
        size = 5 if self.recipe.group_size == 1 else 6
        values = {"global_batch_size": size, "num_epochs": 2, "precision": "fp32"}
        strategy = settings.pop("strategy", "ddp")
        return Trainer(
            self.model(),
            self.recipe,
            TrainSettings(**{**values, **settings}),
            tokenizer=self.tokenizer,
            train_dataset=self.rows if isinstance(self.rows, MixedRows) else list(self.rows),
            eval_dataset=self.held_out() if evaluated else None,
            callbacks=callbacks,
            output_dir=folder,
            context=RunContext(devices=DeviceOptions(strategy=strategy)),
        )


@cache
def tokenizer() -> Tokenizer:
    """Has a chat template; its pad token is also the end of a turn, as in SmolLM2."""
    marks = ["<|im_start|>", "<|im_end|>"]
    found = Tokenizer.train([WORDS] * 4, vocab_size=300, kind="gpt2", special_tokens=marks)
    found.eos_token = found.pad_token = marks[1]
    found.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return found


@cache
def wordpiece() -> Tokenizer:
    """A tokenizer like BERT's, with special tokens around and between texts, and a mask."""
    return Tokenizer.train([WORDS, *(str(n) for n in range(20))], vocab_size=90, kind="wordpiece")


def source(rows: Sequence[dict[str, Any]], **options: Any) -> SourceRows:
    """A source of a mixture."""
    return SourceRows(as_table(list(rows)), **options)


BLOCKS = CausalLM(max_length=24, stride=3)
CASES: dict[str, Case] = {
    "blocks, llama": Case(BLOCKS, TEXTS, {**LLAMA, "tie_word_embeddings": True}),
    "blocks, window": Case(BLOCKS, TEXTS, {**LLAMA, "model_type": "mistral", "sliding_window": 5}),
    "blocks, gpt2": Case(BLOCKS, TEXTS, GPT2),
    "chats, llama": Case(Instruction(max_length=96), CHATS, LLAMA),
    "chats, adapters": Case(
        Instruction(max_length=96, neftune=5.0), CHATS, LLAMA, LoRASettings(rank=3, dropout=0.1)
    ),
    "masked blocks, bert": Case(
        MaskedLM(max_length=24, mask_probability=0.3, unit="spans"), TEXTS, BERT, words=wordpiece
    ),
    "masked texts, adapters": Case(
        MaskedLM(max_length=40, whole_documents=True, unit="words"),
        TEXTS + TEXTS[2:6],
        BERT,
        LoRASettings(rank=3),
        wordpiece,
    ),
    "questions, bert": Case(
        QuestionAnswering(max_length=40, stride=16), QUESTIONS, BERT, words=wordpiece
    ),
    "questions, adapters": Case(
        QuestionAnswering(max_length=40, stride=16),
        QUESTIONS,
        BERT,
        LoRASettings(rank=3),
        wordpiece,
    ),
    "pairs, dpo": Case(Preference(max_length=96), PAIRS, LLAMA),
    "pairs, orpo, adapters": Case(
        Preference(objective="orpo", max_length=96), PAIRS, LLAMA, LoRASettings(rank=3, dropout=0.1)
    ),
    "pairs, rewards": Case(RewardModelling(max_length=96), PAIRS, LLAMA),
    "singles, kto": Case(UnpairedPreference(max_length=96, kl_group=2), SINGLES, LLAMA),
    "choices, bert": Case(MultipleChoice(max_length=48), CHOICES, BERT),
    "choices, adapters": Case(
        MultipleChoice(max_length=48), CHOICES, BERT, LoRASettings(rank=3, dropout=0.1)
    ),
    "tags, bert": Case(TokenClassification(**TAGS, align="all"), TAGGED, BERT),
    "tags, crf": Case(TokenClassification(**TAGS, crf=True), TAGGED, BERT),
    "tags, adapters": Case(
        TokenClassification(**TAGS, crf=True), TAGGED, LLAMA, LoRASettings(rank=3, dropout=0.1)
    ),
    "embeddings, bert": Case(
        SentenceEmbedding(group_size=2, symmetric=True, matryoshka=[24, 8], max_length=48),
        TRIPLETS,
        BERT,
    ),
    "embeddings, two texts a pass": Case(
        SentenceEmbedding(group_size=3, texts_per_pass=2, max_length=48), TRIPLETS, BERT
    ),
    "lists, bert": Case(
        Reranking(objective="lambda", max_length=48),
        [
            {
                "text": row["text"],
                "text_pair": [row["text_pair"], *row["negative"]],
                "label": [2, *range(len(row["negative"]))],
            }
            for row in TRIPLETS[:13]
        ],
        BERT,
    ),
    "targets, t5": Case(WRITING, PAIRS, T5),
    "targets, bart, adapters": Case(WRITING, PAIRS, BART, LoRASettings(rank=3, dropout=0.1)),
    "classes, r-drop": Case(
        SequenceClassification(**CLASSES, r_drop=1.5, focal_gamma=2.0, adversarial=0.5),
        LABELLED,
        BERT,
    ),
    "tasks, bert": Case(MANY, TASKS_OF_ROWS, BERT, words=wordpiece),
    "tasks, adapters": Case(
        MANY, TASKS_OF_ROWS, BERT, LoRASettings(rank=3, dropout=0.1), words=wordpiece
    ),
    "mixture, r-drop": Case(
        SequenceClassification(**CLASSES, r_drop=1.5),
        MixedRows(
            {
                "some": source(LABELLED, weight=1.0),
                "few": source(
                    [{"t": row["text"], "l": row["label"]} for row in LABELLED[:7]],
                    weight=3.0,
                    recipe={"text": "t", "label": "l", "max_length": 20},
                ),
            },
            until="all",
        ),
        BERT,
    ),
    "mixture of recipes, llama": Case(
        Instruction(max_length=96),
        MixedRows(
            {
                "chats": source(CHATS, weight=1.0),
                "blocks": source(TEXTS, weight=1.0, recipe=BLOCKS),
                "answers": source(CHATS[:5], weight=0.5, recipe={"train_on": "last"}),
            },
            temperature=2.0,
        ),
        LLAMA,
    ),
    "mixture, masked": Case(
        MaskedLM(max_length=24, mask_probability=0.3, unit="spans"),
        MixedRows(
            {"all": source(TEXTS, epochs=0.5), "two": source(TEXTS[2:7], epochs=2.0)},
        ),
        BERT,
        words=wordpiece,
    ),
    "mixture, pairs": Case(
        Preference(max_length=96),
        MixedRows({"most": source(PAIRS), "few": source(PAIRS[2:7])}, until="all"),
        LLAMA,
    ),
    "mixture, groups": Case(
        SentenceEmbedding(group_size=3, max_length=48),
        MixedRows(
            {
                "triplets": source(TRIPLETS[:8], weight=1.0),
                "scored": source(
                    [
                        {"a": row["text"], "b": row["text_pair"], "negative": row["negative"]}
                        for row in TRIPLETS[5:]
                    ],
                    weight=2.0,
                    recipe={"text": "a", "text_pair": "b"},
                ),
            },
            until="all",
        ),
        BERT,
    ),
    "embeddings, llama": Case(
        SentenceEmbedding(objective="cosent", group_size=2, pooling="last", max_length=48),
        SCORED,
        LLAMA,
        LoRASettings(rank=3, dropout=0.1),
    ),
}
"""All of them have dropout."""
SLOW = ("mixture, masked", "mixture, pairs", "mixture, groups")
"""Cases that only the slow tests run."""


LABELLED = [{"text": WORDS[n : 9 + 2 * n], "label": "ab"[n % 2]} for n in range(13)]
ANSWERED = [
    {"prompt": WORDS[n : 9 + 2 * n], "completion": f"{n} {WORDS[: 8 + n]}"} for n in range(13)
]
WIDE = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3}


def distilled_cases(folder: Path) -> dict[str, Case]:
    """A classifier and a language model; `write_teachers` writes their teachers to the folder."""
    soft = Distillation(
        teacher=str(folder / "classifier"),
        max_length=40,
        labels=["a", "b"],
        hidden_weight=0.3,
        hidden_depths=2,
    )
    answers = LanguageDistillation(
        teacher=str(folder / "language"),
        max_length=96,
        top_k=9,
        temperature=1.5,
        divergence="js",
    )
    return {
        "distilled classifier": Case(soft, LABELLED, BERT),
        "distilled language": Case(answers, ANSWERED, LLAMA),
    }


def write_teachers(folder: Path) -> None:
    """Write teachers that are deeper than their students; the language model is also wider."""
    labels = {"id2label": {"0": "a", "1": "b"}, "initializer_range": 0.4}
    deep = {**BERT, **labels, "num_hidden_layers": 3}
    write_model(folder / "classifier", "sequence_classification", deep)
    write_model(folder / "language", "causal_lm", {**LLAMA, **WIDE, "initializer_range": 0.2})


def write_model(
    folder: Path, task: str, entries: dict[str, Any], words: Tokenizer | None = None
) -> Path:
    """Save a model of random weights with its tokenizer."""
    torch.manual_seed(5)
    words = words or tokenizer()
    config = ModelConfig({"vocab_size": len(words) + 3, **entries})
    TASKS[task].from_config(config).double().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def weights(trainer: Trainer) -> torch.Tensor:
    """All weights, concatenated."""
    return torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()


class Killed(BaseException):
    """Represents a kill; the Trainer does not catch it."""


@dataclass
class KillAt(Callback):
    """Ends a run after a step, before anything is saved for it."""

    step: int

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == self.step:
            raise Killed
