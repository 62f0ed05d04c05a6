"""Code for transformers and the equivalent code for tempering; a test compares their results.

`python -m trainer.interop.from_transformers` prints docs/from_transformers.md.
"""

from dataclasses import dataclass

from trainer.peer_names import FURTHER_WORDS, PEER_NAMES


@dataclass(frozen=True)
class Example:
    """Code for a task, for transformers and for tempering. It may use earlier variables."""

    topic: str
    transformers_code: str
    tempering_code: str
    result: str
    """An expression that must have the same value after both pieces of code."""


TRAINING_ARGUMENTS = frozenset(
    {
        *("num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"),
        *("auto_find_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
        *("lr_scheduler_kwargs", "optim", "optim_args", "adam_beta1", "adam_beta2"),
        *("adam_epsilon", "label_smoothing_factor", "bf16", "fp16", "torch_compile"),
        *("activation_checkpointing", "eval_strategy", "save_strategy", "logging_strategy"),
        *("resume_from_checkpoint", "full_determinism"),
    }
)
"""The arguments of transformers' TrainingArguments that users often set."""

EXAMPLES = (
    Example(
        "load a tokenizer",
        "from transformers import AutoTokenizer\n"
        'tokenizer = AutoTokenizer.from_pretrained("my-model")',
        "from tempering import AutoTokenizer\n"
        'tokenizer = AutoTokenizer.from_pretrained("my-model")',
        "len(tokenizer)",
    ),
    Example(
        "encode a batch",
        'batch = tokenizer(["good", "very bad"], padding=True, return_tensors="pt")',
        'batch = tokenizer(["good", "very bad"], padding=True, return_tensors="pt")',
        "{name: batch[name].tolist() for name in sorted(batch)}",
    ),
    Example(
        "decode a batch",
        'texts = tokenizer.decode(batch["input_ids"], skip_special_tokens=True)',
        'texts = tokenizer.decode(batch["input_ids"], skip_special_tokens=True)',
        "texts",
    ),
    Example(
        "load a model",
        "from transformers import AutoModelForSequenceClassification\n"
        'model = AutoModelForSequenceClassification.from_pretrained("my-model")',
        "from tempering import AutoModelForSequenceClassification\n"
        'model = AutoModelForSequenceClassification.from_pretrained("my-model")',
        "sum(p.numel() for p in model.parameters())",
    ),
    Example(
        "a config, changed",
        "from transformers import AutoConfig\n"
        'config = AutoConfig.from_pretrained("my-model", num_labels=3)',
        "from tempering import AutoConfig\n"
        'config = AutoConfig.from_pretrained("my-model", num_labels=3)',
        "config.id2label",
    ),
    Example(
        "the class of one family",
        "from transformers import BertForSequenceClassification\n"
        'same = BertForSequenceClassification.from_pretrained("my-model")',
        "from tempering import BertForSequenceClassification\n"
        'same = BertForSequenceClassification.from_pretrained("my-model")',
        "type(same).__name__",
    ),
    Example(
        "another head, with random weights",
        "from transformers import AutoModelForTokenClassification\n"
        "tagger = AutoModelForTokenClassification.from_pretrained(\n"
        '    "my-model", num_labels=5, ignore_mismatched_sizes=True\n)',
        "from tempering import AutoModelForTokenClassification\n"
        "tagger = AutoModelForTokenClassification.from_pretrained(\n"
        '    "my-model", num_labels=5, ignore_mismatched_sizes=True\n)',
        "list(tagger(**batch).logits.shape)",
    ),
    Example(
        "vectors of texts",
        "from transformers import pipeline\n"
        'vectors = pipeline("feature-extraction", model="my-model")("good")',
        "from tempering import pipeline\n"
        'vectors = pipeline("feature-extraction", model="my-model")("good")',
        "vectors",
    ),
    Example(
        "logits",
        "logits = model(**batch).logits",
        "logits = model(**batch).logits",
        "logits.tolist()",
    ),
    Example(
        "a loss and its gradients",
        "loss = model(**batch, labels=torch.tensor([1, 0])).loss\nloss.backward()",
        "loss = model(**batch, labels=torch.tensor([1, 0])).loss\nloss.backward()",
        "loss.item()",
    ),
    Example(
        "hidden states",
        "states = model(**batch, output_hidden_states=True).hidden_states",
        "states = model(**batch, output_hidden_states=True).hidden_states",
        "[list(state.shape) for state in states]",
    ),
    Example(
        "train on texts and labels",
        "from transformers import DataCollatorWithPadding, Trainer, TrainingArguments\n"
        "rows = [dict(tokenizer(text), labels=label) for text, label in data]\n"
        "arguments = TrainingArguments(\n"
        '    output_dir="theirs", num_train_epochs=2, per_device_train_batch_size=4,\n'
        '    learning_rate=0.1, optim="sgd", lr_scheduler_type="constant",\n'
        '    report_to="none", use_cpu=True,\n'
        ")\n"
        "trainer = Trainer(\n"
        "    model, arguments, train_dataset=rows, eval_dataset=rows,\n"
        "    data_collator=DataCollatorWithPadding(tokenizer),\n"
        ")\n"
        "trainer.train()",
        "from tempering import Trainer, TrainSettings\n"
        "from tempering.recipes.sequence_classification import SequenceClassification\n"
        'rows = [{"text": text, "label": label} for text, label in data]\n'
        "settings = TrainSettings(\n"
        "    num_epochs=2, global_batch_size=4,\n"
        '    learning_rate=0.1, optimizer="sgd", lr_scheduler="constant",\n'
        '    warmup_steps=0, precision="fp32",\n'
        ")\n"
        "trainer = Trainer(\n"
        "    model, SequenceClassification(), settings, tokenizer=tokenizer,\n"
        "    train_dataset=rows, eval_dataset=rows,\n"
        ")\n"
        "trainer.fit()",
        "[p.tolist() for p in trainer.model.parameters()][-1]",
    ),
    Example(
        "evaluate",
        'score = trainer.evaluate()["eval_loss"]',
        'score = trainer.evaluate()["eval_loss"]',
        "score",
    ),
    Example(
        "a metric of your own",
        "def accuracy(found):\n"
        "    right = found.predictions.argmax(-1) == found.label_ids\n"
        '    return {"accuracy": float(right.mean())}\n'
        "\n"
        "judge = Trainer(\n"
        "    model, arguments, eval_dataset=rows, compute_metrics=accuracy,\n"
        "    data_collator=DataCollatorWithPadding(tokenizer),\n"
        ")\n"
        'share = judge.evaluate()["eval_accuracy"]',
        "def accuracy(found):\n"
        "    right = found.predictions.argmax(-1) == found.label_ids\n"
        '    return {"accuracy": float(right.mean())}\n'
        "\n"
        "judge = Trainer(\n"
        "    model, SequenceClassification(), settings, tokenizer=tokenizer,\n"
        "    eval_dataset=rows, compute_metrics=accuracy,\n"
        ")\n"
        'share = judge.evaluate()["eval_accuracy"]',
        "share",
    ),
    Example(
        "save, with the tokenizer",
        'trainer.save_model("theirs-trained")\ntokenizer.save_pretrained("theirs-trained")',
        'trainer.save("ours-trained")',
        "None",
    ),
    Example(
        "predict",
        "from transformers import pipeline\n"
        'classify = pipeline("text-classification", model="theirs-trained")\n'
        'answer = classify("very good")',
        "from tempering import pipeline\n"
        'classify = pipeline("text-classification", model="ours-trained")\n'
        'answer = classify("very good")',
        'answer[0]["score"]',
    ),
    Example(
        "a chat as text",
        'chat = [{"role": "user", "content": "good"}]\n'
        'chat_tokenizer = AutoTokenizer.from_pretrained("my-chat-model")\n'
        "prompt = chat_tokenizer.apply_chat_template(\n"
        '    chat, add_generation_prompt=True, return_tensors="pt"\n'
        ")",
        'chat = [{"role": "user", "content": "good"}]\n'
        'chat_tokenizer = AutoTokenizer.from_pretrained("my-chat-model")\n'
        "prompt = chat_tokenizer.apply_chat_template(\n"
        '    chat, add_generation_prompt=True, return_tensors="pt"\n'
        ")",
        'prompt["input_ids"].tolist()',
    ),
    Example(
        "generate",
        "from transformers import AutoModelForCausalLM\n"
        'decoder = AutoModelForCausalLM.from_pretrained("my-chat-model")\n'
        "ids = decoder.generate(**prompt, max_new_tokens=5, do_sample=False)",
        "from tempering import AutoModelForCausalLM\n"
        'decoder = AutoModelForCausalLM.from_pretrained("my-chat-model")\n'
        "ids = decoder.generate(**prompt, max_new_tokens=5, do_sample=False)",
        "ids.tolist()",
    ),
    Example(
        "beams",
        "several = decoder.generate(\n"
        "    **prompt, num_beams=3, num_return_sequences=2, max_new_tokens=5\n)",
        "several = decoder.generate(\n"
        "    **prompt, num_beams=3, num_return_sequences=2, max_new_tokens=5\n)",
        "several.tolist()",
    ),
    Example(
        "write a text",
        'write = pipeline("text-generation", model="my-chat-model")\n'
        'text = write("very good", max_new_tokens=3, do_sample=False)[0]["generated_text"]',
        'write = pipeline("text-generation", model="my-chat-model")\n'
        'text = write("very good", max_new_tokens=3, do_sample=False)[0]["generated_text"]',
        "text",
    ),
    Example(
        "adapters (LoRA)",
        "from peft import LoraConfig, get_peft_model\n"
        'lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])\n'
        "adapted = get_peft_model(decoder, lora)",
        "from tempering import LoRASettings\n"
        'lora = LoRASettings(rank=4, targets=("query", "value"))\n'
        "decoder.add_lora(lora)",
        "sum(p.numel() for p in decoder.parameters() if p.requires_grad)",
    ),
)

ARGUMENTS = tuple(
    name
    for name, ours in PEER_NAMES.items()
    if name in TRAINING_ARGUMENTS and ours.startswith("trainer.")
)
"""The names of TrainingArguments that have another name in TrainSettings."""

HEAD = """\
# Coming from transformers

The left column contains code for transformers. The code in the right column does the same with
tempering. A test runs both columns from top to bottom and compares the results. `data` is a list of
pairs (text, label). `my-model` and `my-chat-model` are folders that `save_pretrained` has written.
[differences.md](differences.md) lists the differences and their reasons.

A batch size in tempering counts the samples of a whole step, over all devices and micro batches.

"""


SETTINGS = """\
## Names of settings

Settings that are not listed, such as `learning_rate`, `weight_decay`, `warmup_steps` and
`max_steps`, have the same name in `TrainSettings`. An unknown name is refused, and the error
suggests the most similar name.

| `TrainingArguments` | `TrainSettings` | |
|---|---|---|
"""


def page() -> str:
    """The text of docs/from_transformers.md."""
    rows = "".join(
        f"<tr><td>{example.topic}</td><td>\n\n```text\n{example.transformers_code}\n```\n\n</td><td>\n\n"
        f"```text\n{example.tempering_code}\n```\n\n</td></tr>\n"
        for example in EXAMPLES
    )
    arguments = "".join(
        f"| `{name}` | `{PEER_NAMES[name].removeprefix('trainer.')}` |"
        f" {FURTHER_WORDS.get(name, '').replace('trainer.', '')} |\n"
        for name in ARGUMENTS
    )
    head = "<tr><th></th><th>transformers</th><th>tempering</th></tr>\n"
    return f"{HEAD}<table>\n{head}{rows}</table>\n\n{SETTINGS}{arguments}"


if __name__ == "__main__":
    print(page(), end="")
