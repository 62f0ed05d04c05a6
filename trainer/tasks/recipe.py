"""Recipe: the interface of a task for the Trainer and the jobs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from trainer.errors import InputError
from trainer.models.outputs import Outputs
from trainer.option_types import Options

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor, nn

    from trainer.data.batch import Batch, FlatBatch, Samples
    from trainer.data.blocks import Blocks
    from trainer.data.sample_rows import SampleRows
    from trainer.metrics.metric import Metric
    from trainer.models.model import Model
    from trainer.tasks.columns import Columns
    from trainer.tasks.comparison import Comparison
    from trainer.tasks.processor import Processor, SampleContext
    from trainer.tokenizer import Tokenizer

Axis = Literal["token", "sequence", "sample"]
"""The unit that an entry of a field describes. A sample has one or more sequences of tokens."""
EXAMPLE_TEXT = "I like it."
"""The text of `example_row`."""


@dataclass(frozen=True)
class Head:
    """The head that a task needs: its name, and the config.json entries that it sets."""

    task: str
    """A key of `trainer.models.auto.TASKS`, such as "sequence_classification"."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Entries of config.json, such as id2label and problem_type."""


class Recipe(Options, where="recipe"):
    """One task. The Trainer calls the recipe, never the reverse.

    Subclasses are frozen dataclasses whose fields are the user's options.
    """

    fields: ClassVar[Mapping[str, Axis]] = {}
    """The columns that `features` returns in addition to input_ids, each with its axis."""

    predicted: ClassVar[Mapping[str, Axis]] = {}
    """The columns that `predictions` may return, each with its axis."""

    derived: ClassVar[Mapping[str, Axis]] = {}
    """The columns that `derive` returns, each with its axis; they are fields of every batch."""

    reads_text: ClassVar[bool] = True
    """Whether samples are tokenized text; if not, override `load_processor` and `samples`."""

    takes_tokens: ClassVar[bool] = False
    """Whether rows may hold `input_ids` and the `fields` in place of text. `features` is not called
    for such rows.
    """

    measures: ClassVar[Mapping[str, bool]] = {}
    """Name of each result of `measure` -> whether a greater value is better."""

    step_figures: ClassVar[tuple[str, ...]] = ()
    """The names of the results of `figures`, which the Trainer logs during training."""

    roles: ClassVar[tuple[str, ...]] = ()
    """The roles of sequences in a sample (chosen, rejected); empty if all have the same role.

    An encoder-decoder model encodes sequences with the role encoder and is trained to predict those
    with the role decoder.
    """

    # --- from rows to ids ---

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that a prediction reads from its row."""
        return ()

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Those of the `text_columns` that every row must have; by default all of them."""
        return self.text_columns

    @property
    def example_row(self) -> dict[str, Any]:
        """A row for prediction, shown to users; by default a text in each of `text_columns`."""
        return dict.fromkeys(self.text_columns, EXAMPLE_TEXT)

    @property
    def answer_columns(self) -> tuple[str, ...]:
        """The columns that hold the answers; rows for prediction may lack them."""
        return ()

    @property
    def answer_fields(self) -> tuple[str, ...]:
        """Those of the `fields` that hold answers, which the loss needs; by default all of them."""
        return tuple(self.fields)

    @property
    def max_tokens(self) -> int | None:
        """The maximum number of tokens in a sequence; None for no limit.

        The model must have at least as many positions. By default, this is the option `max_length`,
        if the recipe has it.
        """
        found: int | None = getattr(self, "max_length", None)
        return found

    @property
    def group_size(self) -> int:
        """How many consecutive samples of a global batch the loss compares with each other.

        A group is never split over micro batches or ranks.
        """
        return 1

    @property
    def texts_per_pass(self) -> int:
        """The number of sequences per forward pass in training; 0 for a whole micro batch.

        Nonzero values require a loss that reads only `outputs.embeddings`, one vector per sequence
        (see trainer/training/gradient_cache.py).
        """
        return 0

    @property
    def blocks(self) -> "Blocks | None":
        """How to cut the concatenated tokens of all rows into samples; None: a sample is a row."""
        return None

    def texts(self, rows: "Dataset") -> Iterable[str]:
        """The texts of rows, for training a tokenizer."""
        from trainer.data.rows import text_column

        if not self.text_columns:
            name = type(self).__name__
            raise InputError(f"tokenizer.train: {name} has no column of plain texts to learn from")
        for column in self.text_columns:
            yield from text_column(rows, column, "recipe.text")

    def for_columns(self, columns: Iterable[str]) -> Self:
        """This recipe, with column options that the user left unset filled in to fit these columns.

        `learn` does the same for training rows. This method serves models trained elsewhere, for
        which `learn` is never called.
        """
        return self

    def refuse_unread(self, columns: Iterable[str]) -> None:
        """Raise InputError for a column that the recipe would read only with other options."""

    def learn(self, rows: "Dataset", *held_out: "Dataset") -> Self:
        """This recipe, with values such as label names filled in from the training rows.

        Names of classes that are not in the training rows may come from the held-out rows.
        """
        return self

    def prepare(self, tokenizer: "Tokenizer") -> None:
        """Add to the tokenizer what the task needs, such as a chat template."""

    def features(
        self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer"
    ) -> dict[str, list[Any]]:
        """Turn columns of rows into `input_ids`, optionally `token_type_ids`, and `fields`.

        In `input_ids`, a sample with several sequences is a list of lists. Rows without answers
        (for prediction) give no answer columns. The column `num_truncated_tokens`, the number
        of tokens cut off each row, is used only in reports. Raises RowError for a row that cannot
        be used, and AnswerError if only its answer cannot be used; dataset.bad_rows decides what
        happens in both cases.
        """
        raise AssertionError(f"{type(self).__name__} does not make features")

    def num_read_tokens(self, rows: Mapping[str, Sequence[Any]], tokenizer: "Tokenizer") -> int:
        """The number of tokens that the model reads for rows without answers.

        A server calls it to limit requests, so it must take time linear in the length of the texts.
        Override it if `features` may make many more tokens than the texts have.
        """
        ids = self.features(rows, tokenizer)["input_ids"]
        return sum(
            sum(map(len, own)) if own and isinstance(own[0], Sequence) else len(own) for own in ids
        )

    @property
    def modules(self) -> tuple[str, ...]:
        """Further modules whose code affects `features`, and which the token cache's key covers."""
        return ()

    @property
    def prompt_options(self) -> Mapping[str, Any]:
        """The format of prompts in training: `chat`, `system` and `date`, if the task has them.

        Generation, during and after training, formats prompts in the same way.
        """
        return {}

    def load_processor(self, folder: "Path | None") -> "Processor | None":
        """The processor for `samples` if `reads_text` is false.

        `folder` is the model's folder; None for a new model.
        """
        return None

    def samples(
        self, rows: "Dataset", processor: "Processor | None", context: "SampleContext"
    ) -> "Samples":
        """Turn rows into samples: by default token ids, made by `features` and the tokenizer.

        Override it for inputs that are not text. A RowError for a row that cannot be used ends
        the run: only `context.tokenize` can leave out bad rows (`dataset.bad_rows=drop`).
        """
        return context.tokenize(rows)

    def augment(
        self, batch: "FlatBatch", tokenizer: "Tokenizer", *, seed: int, epoch: int | None
    ) -> "FlatBatch":
        """Prepare a batch for training, for example by masking tokens or adding fields.

        It is called on the CPU for every batch of token ids, perhaps in another thread. Random
        draws must be functions of seed, epoch and `batch.sample_ids` alone, never of a generator's
        state (see trainer/data/masking.py). `epoch` counts from 0; None means an evaluation, whose
        seed is fixed, so that all evaluations see the same batches.
        """
        return batch

    @property
    def augments(self) -> bool:
        """Whether `augment` changes batches; by default true if the recipe overrides it."""
        return type(self).augment is not Recipe.augment

    @property
    def derived_by(self) -> str | None:
        """The path of the model that derives the columns of `derived`, such as a teacher's.

        None for the trained model itself, with its weights at the start of training.
        """
        return None

    # --- facts about labels ---

    @property
    def label_rule(self) -> str | None:
        """A line that tells the user how the answer columns are read; None if there is none."""
        return None

    @property
    def has_classes(self) -> bool:
        """Whether the loss is a cross-entropy over classes, to which label smoothing applies."""
        return True

    @property
    def class_names(self) -> list[str] | None:
        """The class names in the order of their ids; None unless samples have exactly one class."""
        return None

    def class_counts(self, samples: "Samples") -> dict[str, int]:
        """Label -> the number of samples with it; empty if samples have no labels."""
        return {}

    def doubt(self, samples: "Samples", model: "Model", tokenizer: "Tokenizer") -> str | None:
        """A warning that says why training on these samples may not work; None for no warning."""
        return None

    @classmethod
    def fields_of_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Options, such as labels, that the config.json of a model trained elsewhere implies."""
        return {}

    # --- the model ---

    @property
    def head(self) -> Head:
        """The head that the model must have for this task."""
        raise AssertionError(f"{type(self).__name__} names no head")

    def has_loss(self, batch: "Batch") -> bool:
        """Whether the batch holds the answers that the loss needs."""
        return all(name in batch for name in (*self.answer_fields, *self.derived))

    def loss(
        self, outputs: Outputs, batch: "Batch", *, label_smoothing: float = 0.0
    ) -> tuple["Tensor", "Tensor"]:
        """(sum, count) of the loss; the Trainer divides the total sum by the total count.

        Both are scalars, or both are tensors with one entry per sample, sequence or token. From
        such tensors, an evaluation computes the loss of each sample.
        """
        raise AssertionError(f"{type(self).__name__} has no loss")

    def figures(self, outputs: Outputs, batch: "Batch") -> Mapping[str, tuple["Tensor", "Tensor"]]:
        """Name of each of `step_figures` -> its (sum, count), two scalars, for a training batch.

        It is called after `loss` with the same outputs, without gradients. The Trainer adds up the
        sums and the counts over the global batch, and logs their quotients.
        """
        raise AssertionError(f"{type(self).__name__} has no figures")

    def counts(self, batch: "FlatBatch") -> "Tensor | None":
        """The counts of `loss`, computed from a batch's answers alone; None if not possible.

        Tasks that share a model (`multi_task`) need this method. The result has one entry per
        sample, sequence or token.
        """
        return None

    def derive(self, outputs: Outputs, batch: "Batch") -> dict[str, "Tensor"]:
        """The columns of `derived`, from the outputs of the model that `derived_by` selects.

        It is called once per batch, in eval mode and without gradients; for training data, before
        the first step.
        """
        raise AssertionError(f"{type(self).__name__} derives nothing")

    def trained_on(self, batch: "Batch") -> "Tensor | None":
        """[T] bool, the tokens that the model learns to predict; None if answers are not tokens."""
        return None

    def token_notes(self, batch: "Batch") -> "list[str | None] | None":
        """Notes that job=inspect shows after tokens, such as the tags of words.

        The list has an entry for each token. A note applies to its token and to those after it, up
        to the next note.
        """
        return None

    def write_files(self, directory: "Path", model: "nn.Module") -> None:
        """Write files that other tools need next to the model's own; by default none."""

    @property
    def writes_parts(self) -> bool:
        """Whether `write_parts` writes anything; if so, a sharded model is gathered as a whole."""
        return type(self).write_parts is not Recipe.write_parts

    def write_parts(
        self,
        directory: "Path",
        model: "nn.Module",
        tokenizer: "Processor | None",
        weights: "Mapping[str, Tensor] | None",
    ) -> None:
        """Write additional outputs next to the model at the end of training; by default none.

        `weights` maps names to the whole weights of a sharded model, of which each rank holds only
        a part. None: the model itself holds all its weights.
        """

    def for_search(self, side: Literal["query", "document"]) -> "Recipe | None":
        """The recipe that embeds queries, or the documents to search.

        Its answers hold the vectors under the key `embedding`. None if the task computes none.
        """
        return None

    # --- evaluation and prediction ---

    def predictions(self, outputs: Outputs, batch: "Batch") -> dict[str, "Tensor"]:
        """All or some of the columns of `predicted` for a batch, each flat along its axis.

        [T, ...] along tokens, [S, ...] along sequences, [N, ...] along samples. All batches of a
        data set must return the same names. References (labels of the batch) may be included.
        """
        return {}

    def evaluated(self, model: "nn.Module", outputs: Outputs, batch: "Batch") -> Outputs:
        """A batch's outputs, plus what an evaluation generates with the model, such as texts."""
        return outputs

    @property
    def for_prediction(self) -> Self:
        """This recipe, with its options changed as `job=predict` requires."""
        return self

    @property
    def compares(self) -> str | None:
        """The kind of the `comparison`, such as "classes"; None if there is no comparison."""
        return None

    @property
    def usual_metrics(self) -> tuple[str, ...]:
        """Names of the metrics to use if the user chose none; by default accuracy and F1."""
        return ()

    def comparison(self, columns: "Columns", rows: "SampleRows") -> "Comparison | None":
        """What metrics compare over a whole data set; None if references are missing.

        By default it has the columns `predictions` and `references`, and the kind `compares`.
        """
        from trainer.tasks.comparison import Comparison

        if self.compares is None or not {"predictions", "references"} <= set(columns):
            return None
        found, wanted = columns["predictions"].values, columns["references"].values
        return Comparison(self.compares, found, wanted, self.class_names)

    def measure(self, loss: float, columns: "Columns") -> dict[str, float]:
        """The task's own results of an evaluation, in addition to metrics."""
        return {}

    @property
    def embedding_noise(self) -> float:
        """The option `neftune`: alpha of NEFTune's noise on embeddings in training; 0 for none."""
        return float(getattr(self, "neftune", 0.0))

    @property
    def embedding_step(self) -> float:
        """The option `adversarial`: FGM's step size on embeddings; 0 for none."""
        return float(getattr(self, "adversarial", 0.0))

    @property
    def sliced_by(self) -> str | None:
        """The option `slices`: the column whose values split evaluations into slices."""
        found: str | None = getattr(self, "slices", None)
        return found

    def parts(self, columns: "Columns", rows: "SampleRows") -> "list[Part]":
        """Parts of an evaluated data set to measure separately, perhaps by other recipes."""
        return []

    def settle(self, columns: "Columns", rows: "SampleRows") -> Self:
        """This recipe, with values such as a threshold chosen from an evaluation's predictions.

        It is called after every evaluation of the first evaluation set, unless a prediction is not
        finite. The returned recipe measures all evaluation sets; at the end of training it is
        saved in the model's recipe.json.
        """
        return self

    @property
    def metric_for_best_model(self) -> str:
        """The metric that selects the best model if the settings name none."""
        return "loss"

    def answers(self, columns: "Columns", rows: "SampleRows") -> list[dict[str, Any]]:
        """The predictions for users, one answer per sample: a label and its score, for example.

        `rows` are the samples' rows, for answers that quote them.
        """
        return [{} for _ in range(len(rows))]


@dataclass(frozen=True)
class Part:
    """A subset of an evaluated data set's samples, measured separately by a recipe."""

    name: str
    """The prefix of the part's results: with "ner", a result is ner_loss."""
    samples: "np.ndarray"
    """[n], the indices of the part's samples, in ascending order."""
    recipe: Recipe
    columns: "Columns"
    """The recipe's predictions for these samples."""
    rows: "SampleRows"
    """The rows of these samples."""
    metrics: "Mapping[str, Metric] | None" = None
    """The metrics of this part; None for those of the whole evaluation."""
    losses: "tuple[np.ndarray, np.ndarray] | None" = None
    """The samples' loss sums [n] and counts [n]; None: those of the whole evaluation."""
