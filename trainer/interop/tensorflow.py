"""The hub's names for our TensorFlow models: the task is the class, as in `trainer.models.auto`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer import hub
from trainer.errors import InputError
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.pretrained import PretrainedModel
from trainer.models.weight_files import WeightFiles

if TYPE_CHECKING:
    from trainer.interop.tensorflow_models import TFPretrainedModel


class TFAutoModel:
    """Makes Keras models of the bare encoders; TensorFlow is imported when one is made."""

    task: ClassVar[str] = "base"

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        *,
        from_pt: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        token: str | None = None,
        new_head: bool = False,
        **config_overrides: Any,
    ) -> "TFPretrainedModel":
        """The model of a local directory, a hub id or a pkg:// path.

        The weights are those of model.safetensors, or where there are none (and `from_pt` does
        not ask for them) of tf_model.h5. Raises InputError as the torch models do, and where
        TensorFlow is not installed.
        """
        require_tensorflow()
        options: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
        }
        folder = hub.find(str(path), **options)
        source = TASKS[cls.task].from_pretrained(
            path,
            from_tf=not from_pt and not list(folder.glob(WeightFiles.pattern)),
            new_head=new_head,
            **options,
            **config_overrides,
        )
        return cls._twin(source)

    @classmethod
    def from_config(cls, config: ModelConfig) -> "TFPretrainedModel":
        """The model of a config with random weights, drawn from torch's global generator."""
        require_tensorflow()
        return cls._twin(TASKS[cls.task].from_config(config))

    @classmethod
    def _twin(cls, source: PretrainedModel) -> "TFPretrainedModel":
        from trainer.interop.tensorflow_models import MODELS

        return MODELS[cls.task](source)


class TFAutoModelForMaskedLM(TFAutoModel):
    """Makes Keras models that score every word at every token."""

    task = "masked_lm"


class TFAutoModelForMultipleChoice(TFAutoModel):
    """Makes Keras models that score the choices of a question."""

    task = "multiple_choice"


class TFAutoModelForQuestionAnswering(TFAutoModel):
    """Makes Keras models that score tokens as starts and ends of an answer."""

    task = "question_answering"


class TFAutoModelForSequenceClassification(TFAutoModel):
    """Makes Keras models that label sequences."""

    task = "sequence_classification"


class TFAutoModelForTokenClassification(TFAutoModel):
    """Makes Keras models that label tokens."""

    task = "token_classification"


def require_tensorflow() -> None:
    """Raises InputError where TensorFlow is not installed, or is not what Keras runs on."""
    try:
        import keras
        import tensorflow  # noqa: F401
    except ImportError:
        raise InputError(
            "TFAutoModel: the package tensorflow is not installed; accepted: "
            "pip install 'tempering[tensorflow]'"
        ) from None
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"TFAutoModel: Keras runs on {keras.backend.backend()}; accepted: tensorflow "
            "(the environment variable KERAS_BACKEND)"
        )
