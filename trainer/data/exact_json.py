"""ExactJson: columns of nested or mixed JSON, each cell kept as the text that it was."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Json


@dataclass
class ExactJson(Json):
    """`datasets.Json`, read by Python's json: all digits of numbers, keys in their order."""

    def decode_example(self, example_data: str | None, token_per_repo_id: Any = None) -> Any:
        return None if example_data is None else json.loads(example_data)


def json_array(values: Sequence[Any]) -> pa.Array:
    """Values as JSON texts; None is null. Raises UnicodeError for half of a surrogate pair."""
    texts = [
        None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        for value in values
    ]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def dataset_of(table: pa.Table) -> Dataset:
    """The table as a data set whose JSON columns are read exactly.

    It gets a random fingerprint. The usual one is made from a pickle of the whole table, which
    takes time and memory, and fails above 2 GiB of text in one column.
    """
    fingerprint = secrets.token_hex(8)
    kinds = {field.name: field.type for field in table.schema}
    exact = {name: ExactJson() for name, kind in kinds.items() if isinstance(kind, pa.JsonType)}
    if not exact:
        return Dataset(table, fingerprint=fingerprint)
    features = Features.from_arrow_schema(table.schema)
    info = DatasetInfo(features=Features({**features, **exact}))
    return Dataset(table, info=info, fingerprint=fingerprint)
