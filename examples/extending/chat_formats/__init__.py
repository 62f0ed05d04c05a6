"""Chat formats: each file has the name of the format (recipe.format) and defines `read(rows)`."""
