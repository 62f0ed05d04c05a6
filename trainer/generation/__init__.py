"""Generation: text generation with causal language models and encoder-decoders."""
