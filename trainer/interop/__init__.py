"""Interoperability: reads and writes models in the formats of other tools."""
