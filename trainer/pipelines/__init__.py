"""Pipelines: apply a saved model to raw inputs; there is one file for each task."""

from trainer.pipelines.loading import pipeline as pipeline
from trainer.pipelines.of_recipe import Pipeline as Pipeline
from trainer.pipelines.text_pipeline import TextPipeline as TextPipeline
