"""The YAML of every config group; a package so that a wheel carries them."""
