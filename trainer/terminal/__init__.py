"""The terminal: consoles, standard streams, and text that is safe to print."""
