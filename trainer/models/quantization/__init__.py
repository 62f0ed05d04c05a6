"""Quantization: frozen weights in 4 or 8 bits, for training adapters in less memory."""
