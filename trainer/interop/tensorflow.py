"""The TFAutoModel classes: one Keras class for each task, like the classes in `models.auto`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from trainer import hub
from trainer.errors import InputError
from trainer.models.auto import TASKS
from trainer.models.config import ModelConfig
from trainer.models.family import Family
from trainer.models.formats.weight_files import WeightFiles
from trainer.models.pretrained import PretrainedModel

if TYPE_CHECKING:
    from trainer.interop.tensorflow_models import TFPretrainedModel


class TFAutoModel:
    """Creates Keras models of encoders without a head. TensorFlow is imported on first use."""

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
        """Load the model from a local directory, a hub id or a pkg:// path.

        Reads model.safetensors, or tf_model.h5 if that is missing; `from_pt` has no effect.
        Raises the same errors as the torch models, and InputError if TensorFlow is not installed.
        """
        require_tensorflow()
        options: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
        }
        folder = hub.find(str(path), **options, subfolder=config_overrides.get("subfolder") or "")
        source = TASKS[cls.task].from_pretrained(
            path,
            from_tf=not list(folder.glob(WeightFiles.pattern)),
            new_head=new_head,
            **options,
            **config_overrides,
        )
        return cls._converted(source)

    @classmethod
    def from_config(cls, config: ModelConfig) -> "TFPretrainedModel":
        """Create the model from a config, with random weights from torch's global generator."""
        require_tensorflow()
        return cls._converted(TASKS[cls.task].from_config(config))

    @classmethod
    def _converted(cls, source: PretrainedModel) -> "TFPretrainedModel":
        from trainer.interop.tensorflow_models import MODELS

        return MODELS[cls.task](source)


class TFAutoModelForMaskedLM(TFAutoModel):
    """Creates Keras models that score the whole vocabulary at every token."""

    task = "masked_lm"


class TFAutoModelForMultipleChoice(TFAutoModel):
    """Creates Keras models that score the choices of a question."""

    task = "multiple_choice"


class TFAutoModelForQuestionAnswering(TFAutoModel):
    """Creates Keras models that score tokens as starts and ends of an answer."""

    task = "question_answering"


class TFAutoModelForSequenceClassification(TFAutoModel):
    """Creates Keras models that label sequences."""

    task = "sequence_classification"


class TFAutoModelForTokenClassification(TFAutoModel):
    """Creates Keras models that label tokens."""

    task = "token_classification"


GENERIC = (
    TFAutoModel,
    TFAutoModelForMaskedLM,
    TFAutoModelForMultipleChoice,
    TFAutoModelForQuestionAnswering,
    TFAutoModelForSequenceClassification,
    TFAutoModelForTokenClassification,
)
"""The classes above, one for each task."""


def keras_class(task: str, family: Family) -> type[TFAutoModel] | None:
    """Make the class for a family and a task, such as TFBertModel; None without such a head."""
    generic = next((cls for cls in GENERIC if cls.task == task), None)
    if generic is None:
        return None
    name = "TF" + family.name + family.heads[task].class_suffix
    return type(name, (_OfFamily, generic), {"only_family": family})


class _OfFamily(TFAutoModel):
    """Creates Keras models of one family. The class can also be called with a config."""

    only_family: ClassVar[Family]

    def __new__(cls, config: ModelConfig) -> "TFPretrainedModel":  # type: ignore[misc]
        return cls.from_config(config)

    @classmethod
    def _converted(cls, source: PretrainedModel) -> "TFPretrainedModel":
        cls.only_family.require(source.config.model_type, cls.__name__, "config")
        return super()._converted(source)


def require_tensorflow() -> None:
    """Raise InputError if TensorFlow is not installed, or Keras runs on another backend."""
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
