"""Tables of other programs' keys with ours, from the names that error messages suggest."""

from reference import plainly

from trainer.interop.peer_keys import keys_of_program


def peer_table(program: str) -> str:
    """The table of a program's keys. Raises KeyError for an unknown program."""
    rows = [
        f"| `{key.name}` | {_linked(key.ours)} | {plainly(key.note)} |"
        for key in keys_of_program(program)
    ]
    return "\n".join([f"| {program} | tempering | |", "|---|---|---|", *rows])


def _linked(ours: str) -> str:
    """Our key with a link to its description, or "nothing to set" if there is no such key."""
    if not ours:
        return "nothing to set"
    section = ours.partition(".")[0]
    pages = {"recipe": "recipes", "dataset": "datasets", "callbacks": "callbacks"}
    page = pages.get(section, "keys")
    anchor = f"#{ours}" if page == "keys" else ""
    return f"[`{ours}`](reference/{page}.md{anchor})"
