"""Loading example: writes short programs that load the pushed model, for a model card."""

from trainer.reports.model_card.metadata import Subject

CLASSES = (
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
    "AutoModelForQuestionAnswering",
    "AutoModelForMaskedLM",
    "AutoModelForCausalLM",
    "AutoModelForMultipleChoice",
)
OF_PEFT = ("AutoModelForCausalLM", "AutoModelForSequenceClassification")
"""Classes for which PEFT has an AutoPeftModel class."""
PIPELINES = ("text-classification", "token-classification", "fill-mask", "text-generation")
"""The tasks whose pipelines take a single text as input."""


def loading_example(subject: Subject) -> str:
    """Python code and a command that use the model; empty for GGUF and ONNX files."""
    if subject.library in ("gguf", "onnx"):
        return ""
    programs = [_python(subject), _others(subject), _command(subject)]
    return "\n\n".join(filter(None, programs))


def _python(subject: Subject) -> str:
    if not subject.architecture:
        return ""
    if subject.pipeline_tag in PIPELINES and not subject.is_adapter:
        text = "The capital of France is [MASK]." if subject.pipeline_tag == "fill-mask" else "..."
        lines = [
            "from tempering import pipeline  # or from transformers",
            "",
            f'answer = pipeline("{subject.pipeline_tag}", model="{subject.repo}")',
            f'print(answer("{text}"))',
        ]
    else:
        lines = [
            f"from tempering import AutoTokenizer, {_class(subject)}",
            "",
            f'tokenizer = AutoTokenizer.from_pretrained("{subject.repo}")',
            f'model = {_class(subject)}.from_pretrained("{subject.repo}")',
        ]
    return "\n".join(("```python", *lines, "```"))


def _others(subject: Subject) -> str:
    """Code that loads the model with PEFT or sentence-transformers; empty if neither can do so."""
    name = _class(subject).replace("AutoModel", "AutoPeftModel")
    if subject.library == "peft" and _class(subject) in OF_PEFT:
        lines = [
            f"from peft import {name}",
            "",
            f'model = {name}.from_pretrained("{subject.repo}")',
        ]
    elif subject.library == "sentence-transformers":
        lines = [
            "from sentence_transformers import SentenceTransformer",
            "",
            f'model = SentenceTransformer("{subject.repo}")',
            'print(model.encode(["..."]).shape)',
        ]
    else:
        return ""
    return "\n".join(("```python", *lines, "```"))


def _command(subject: Subject) -> str:
    if not subject.recipe:
        return ""
    job = "generate" if subject.pipeline_tag == "text-generation" else "predict"
    input_key = "input.prompt" if job == "generate" else "input.text"
    return f"```bash\ntempering job={job} model.path={subject.repo} {input_key}='...'\n```"


def _class(subject: Subject) -> str:
    ends = (
        name for name in CLASSES if subject.architecture.endswith(name.removeprefix("AutoModel"))
    )
    return next(ends, "AutoModel")
