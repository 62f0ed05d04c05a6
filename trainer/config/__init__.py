"""Config: turns the command line and the YAML files into a checked Run."""
