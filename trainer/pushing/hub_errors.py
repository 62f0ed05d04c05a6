"""Turns exceptions of the hub's client into one-line errors that do not show the token."""

from collections.abc import Iterator
from contextlib import contextmanager

from trainer.errors import EnvironmentFault, InputError
from trainer.redaction import REDACTED, redacted_text

MAX_MESSAGE = 200
"""The maximum number of characters that are shown of the hub's own message."""
RETRY_ADVICE = "run the same command again: it sends only what is missing"
"""Advice for errors that a retry may solve."""


@contextmanager
def errors_of_push(repo: str, token: str) -> Iterator[None]:
    """Context manager that turns all exceptions of the hub's client into one-line errors.

    Raises InputError for faults that the user can fix, in the repository, the token or the
    metadata. Raises EnvironmentFault if the hub does not answer, or if the repository changes
    during the push.
    """
    try:
        yield
    except (InputError, EnvironmentFault):
        raise
    except Exception as error:  # from the hub's client, its HTTP library, hf-xet, or the system
        raise _in_one_line(error, repo, token) from None


def _in_one_line(error: Exception, repo: str, token: str) -> InputError | EnvironmentFault:
    from huggingface_hub import errors

    where, message = f"push to '{repo}'", _message(error, token)
    status = _status(error)
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{where}: not a repository name; accepted: name or owner/name")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return EnvironmentFault(f"{where}: HF_HUB_OFFLINE is set, so nothing can be sent")
    if isinstance(error, errors.GatedRepoError):
        return InputError(f"{where}: it is gated; ask for access on its page on the hub")
    if status == 401 and not isinstance(error, errors.RepositoryNotFoundError):
        accepted = "set HF_TOKEN, or run `hf auth login`"
        return InputError(f"{where}: the hub does not accept the token; {accepted}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return InputError(f"{where}: there is no such repository, or the token cannot see it")
    if status == 403:
        needed = "needed: a token with the right to write to it"
        return InputError(f"{where}: the hub refuses it ({message}); {needed}")
    if status in (409, 412):
        return EnvironmentFault(f"{where}: it changed during the push ({message}); {RETRY_ADVICE}")
    if status is not None and 400 <= status < 500 and status not in (408, 429):
        return InputError(f"{where}: the hub refuses it ({message})")
    if status is None and isinstance(error, ValueError):
        return InputError(f"{where}: {message}")
    return EnvironmentFault(f"{where}: {type(error).__name__}: {message}; {RETRY_ADVICE}")


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error, or of an error that caused it; None if none has a status."""
    while error is not None:
        found = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(found, int):
            return found
        error = error.__cause__
    return None


def _message(error: Exception, token: str) -> str:
    """The message of the hub or its client on one line, without secrets."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    known = (getattr(each, "server_message", None) for each in causes)
    text = next(filter(None, known), str(error))
    line = " ".join(text.replace(token, REDACTED).split())
    return redacted_text(line)[:MAX_MESSAGE]
