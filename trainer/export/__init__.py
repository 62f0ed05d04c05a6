"""Export: writes models in the formats of other programs, and compares their outputs."""
