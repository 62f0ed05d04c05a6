"""ExactJson: columns of nested or mixed JSON, stored as JSON text and parsed without loss."""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetInfo, Features, Json


@dataclass
class ExactJson(Json):  # type: ignore[misc]  # `datasets` has no types
    """`datasets.Json`, parsed by Python's json, which keeps all digits and the order of keys."""

    def decode_example(self, example_data: str | None, token_per_repo_id: object = None) -> Any:
        return None if example_data is None else json.loads(example_data)


def json_array(values: Sequence[Any]) -> pa.Array:
    """An Arrow array of JSON texts, null for None. Raises UnicodeError for a lone surrogate."""
    texts = [
        None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        for value in values
    ]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def dataset_of(table: pa.Table) -> Dataset:
    """The table as a data set whose JSON columns are parsed as `ExactJson`.

    Its fingerprint is random. The default one hashes a pickle of the whole table, which is slow
    and fails if one column has more than 2 GiB of text.
    """
    fingerprint = secrets.token_hex(8)
    kinds = {field.name: field.type for field in table.schema}
    exact = {name: ExactJson() for name, kind in kinds.items() if isinstance(kind, pa.JsonType)}
    if not exact:
        return Dataset(table, fingerprint=fingerprint)
    features = Features.from_arrow_schema(table.schema)
    info = DatasetInfo(features=Features({**features, **exact}))
    return Dataset(table, info=info, fingerprint=fingerprint)
