"""Trackers: callbacks that log a run to TensorBoard, W&B, MLflow, trackio or Comet."""
