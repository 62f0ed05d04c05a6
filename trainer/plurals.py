"""Plurals: a number with its noun or verb in the right form."""


def plural(number: int, noun: str) -> str:
    """The number with its noun, such as "1 step", "2 steps", "2 classes" or "2 entries"."""
    if noun.endswith("try"):
        return f"{number:,} {noun if number == 1 else f'{noun[:-1]}ies'}"
    ending = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}" + ending * (number != 1)


def of_all(number: int, total: int, noun: str) -> str:
    """A subject with its verb, such as "1 of 8 rows is" or "2 of 8 rows are"."""
    return f"{number:,} of {plural(total, noun)} {'is' if number == 1 else 'are'}"
