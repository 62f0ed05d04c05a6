"""Adapters: LoRA, and folders of adapters in PEFT's format."""
