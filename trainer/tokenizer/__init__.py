"""The tokenizer: text to ids and back, in the hub's files and under the hub's names."""

from trainer.tokenizer.encoding import BatchEncoding as BatchEncoding
from trainer.tokenizer.tokenizer import Tokenizer as Tokenizer
