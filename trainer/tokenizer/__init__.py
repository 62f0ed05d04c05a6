"""Tokenizer: encodes and decodes text, with the file formats and API of the hub."""

from trainer.tokenizer.encoding import BatchEncoding as BatchEncoding
from trainer.tokenizer.tokenizer import Tokenizer as Tokenizer
