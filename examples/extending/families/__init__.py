"""Model families: each file is named after its model_type and defines FAMILY."""
