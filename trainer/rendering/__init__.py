"""Rendering: formats the output of commands for the terminal, as stateless rich renderables."""
