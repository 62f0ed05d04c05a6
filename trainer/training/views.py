"""Views: read access to the parts of a Trainer."""

from collections.abc import Mapping, Sequence

from torch import nn

from trainer.callbacks.callback import Callback
from trainer.data.batch import Samples
from trainer.devices.ranks import Ranks
from trainer.metrics.metric import Metric
from trainer.runs.folder import RunFolder
from trainer.runs.state import RunState
from trainer.settings import TrainSettings
from trainer.tasks.processor import Processor
from trainer.tasks.recipe import Recipe
from trainer.training.evaluation import Evaluation
from trainer.training.evaluator import Evaluator
from trainer.training.session import Session
from trainer.training.setup import Setup


class Views:
    """The parts of a Trainer, as properties."""

    setup: Setup
    evaluator: Evaluator
    session: Session
    """The training that `fit` started last: its plan, optimizer and state."""

    @property
    def model(self) -> nn.Module:
        """The model, on its device."""
        return self.setup.model

    @property
    def recipe(self) -> Recipe:
        """The recipe, with values such as labels filled in from the training rows."""
        return self.setup.recipe

    @property
    def settings(self) -> TrainSettings:
        """The settings."""
        return self.setup.settings

    @property
    def tokenizer(self) -> Processor | None:
        """The tokenizer, or the processor that the recipe uses instead of one."""
        return self.setup.tokenizer

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """Name of a metric in the settings -> the metric."""
        return self.setup.metrics

    @property
    def callbacks(self) -> list[Callback]:
        """The callbacks; more may be added before `fit`."""
        return self.setup.callbacks

    @callbacks.setter
    def callbacks(self, callbacks: Sequence[Callback]) -> None:
        self.setup.callbacks[:] = callbacks

    @property
    def ranks(self) -> Ranks:
        """The processes that train together."""
        return self.setup.ranks

    @property
    def folder(self) -> RunFolder | None:
        """The run folder; None if nothing is written."""
        return self.setup.folder

    @property
    def train_samples(self) -> Samples | None:
        """The training rows as samples."""
        return self.setup.train

    @property
    def eval_samples(self) -> Mapping[str, Samples]:
        """Name of an evaluation set -> its samples; a single unnamed set has the name ''."""
        return self.setup.evaluation

    @property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """The last evaluation of each evaluation set."""
        return self.evaluator.evaluations

    @property
    def state(self) -> RunState:
        """The progress of the training that `fit` started last, with its logged metrics."""
        return self.session.state if "session" in vars(self) else RunState()
