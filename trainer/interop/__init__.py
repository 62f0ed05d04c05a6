"""Other people's formats: models read from them and written to them."""
