"""The model card: writes the README.md of a model on the hub from the files of its run."""
