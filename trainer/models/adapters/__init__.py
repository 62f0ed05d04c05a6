"""Adapters: LoRA and (IA)^3, read and written in PEFT's format."""
