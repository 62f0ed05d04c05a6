"""Generation: texts that a causal language model goes on with."""
