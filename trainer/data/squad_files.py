"""SQuAD files: articles of paragraphs with questions (SQuAD 1.1 and 2.0), flattened to rows."""

from collections.abc import Sequence
from typing import Any

from trainer.errors import InputError

ANSWERS = ("answers", "plausible_answers")
"""Keys that hold a list of {"text", "answer_start"} in a file, and two lists, "text" and
"answer_start", in a row.
"""


def is_squad(articles: Sequence[Any]) -> bool:
    """Whether the rows of a JSON file are SQuAD's articles."""
    first = articles[0] if articles else None
    if not isinstance(first, dict) or not isinstance(first.get("paragraphs"), list):
        return False
    return all(isinstance(each, dict) and "qas" in each for each in first["paragraphs"])


def flattened(articles: Sequence[Any], place: str) -> list[dict[str, Any]]:
    """One row for each question: title, context, and the entries of the question.

    The answers become {"text": [...], "answer_start": [...]}, both empty if there are none.
    Raises InputError for any other structure, with the number of the article, paragraph and
    question.
    """
    rows = []
    for number, article in enumerate(articles, 1):
        where = f"{place}: article {number}"
        title = article.get("title") if isinstance(article, dict) else None
        for index, paragraph in enumerate(_listed(article, "paragraphs", where), 1):
            at = f"{where}, paragraph {index}"
            context = paragraph.get("context") if isinstance(paragraph, dict) else None
            if not isinstance(context, str):
                raise InputError(f"{at}: found no text under 'context'; accepted: a text")
            shared = {"context": context} if title is None else {"title": title, "context": context}
            for order, question in enumerate(_listed(paragraph, "qas", at), 1):
                rows.append(shared | _question(question, f"{at}, question {order}"))
    return rows


def _question(question: object, where: str) -> dict[str, Any]:
    if not isinstance(question, dict):
        raise InputError(f"{where}: found {type(question).__name__}; accepted: an object")
    row = dict(question)
    for name in ANSWERS:
        if name in row:
            row[name] = _columns(_listed(row, name, where), f"{where}: '{name}'")
    return row


def _columns(answers: list[Any], where: str) -> dict[str, list[Any]]:
    for answer in answers:
        if not isinstance(answer, dict) or not {"text", "answer_start"} <= answer.keys():
            accepted = 'accepted: {"text": ..., "answer_start": ...}'
            raise InputError(f"{where}: found {answer!r:.60}; {accepted}")
    return {name: [answer[name] for answer in answers] for name in ("text", "answer_start")}


def _listed(found: object, name: str, where: str) -> list[Any]:
    value = found.get(name) if isinstance(found, dict) else None
    if not isinstance(value, list):
        raise InputError(f"{where}: found no list under '{name}'; accepted: SQuAD's format")
    return value
