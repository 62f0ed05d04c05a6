"""Faults: turns exceptions of a store's client library into one-line errors without secrets."""

import errno
import re

from trainer.errors import EnvironmentFault, InputError
from trainer.redaction import redacted_text
from trainer.stores.url import scheme_of

NO_CREDENTIALS = re.compile(r"credential|token(not|retrieval)|profilenotfound", re.IGNORECASE)
"""Matches the class names of exceptions that libraries raise if they find no credentials."""
REFUSED = (401, 403)
"""HTTP statuses of a refused request."""
FINAL = (errno.EINVAL, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.EROFS)
"""System errors for which a retry is pointless."""


def is_transient(error: Exception) -> bool:
    """Whether a retry may succeed."""
    if lacks_credentials(error) or is_refused(error):
        return False
    if isinstance(error, OSError):
        return error.errno not in FINAL and not isinstance(error, FileNotFoundError)
    return not isinstance(error, NotImplementedError | ValueError | TypeError | LookupError)


def lacks_credentials(error: Exception) -> bool:
    """Whether the library found no credentials, or could not read them."""
    return bool(NO_CREDENTIALS.search(type(error).__name__))


def is_refused(error: Exception) -> bool:
    """Whether the store rejected the credentials, or they do not permit the request."""
    response = getattr(error, "response", None)
    codes = [getattr(error, name, None) for name in ("code", "status")]
    codes.append(getattr(response, "status_code", None))
    return isinstance(error, PermissionError) or any(code in REFUSED for code in codes)


def fault_of(error: Exception, what: str, url: str, is_first: bool) -> Exception:
    """The error to raise, with a message that starts with `what`.

    An example of `what` is "output_dir: s3://b/a: cannot read x". The error is an InputError if no
    earlier request has succeeded (`is_first`), and credentials or files are missing or access is
    refused. In all other cases it is an EnvironmentFault.
    """
    accepted = scheme_of(url).credentials
    kind = InputError if is_first else EnvironmentFault
    if lacks_credentials(error):
        return kind(f"{what}: no credentials ({type(error).__name__}); accepted: {accepted}")
    if is_refused(error):
        found = f"access denied ({reason(error)})"
        return kind(f"{what}: {found}; accepted: credentials with that right: {accepted}")
    if isinstance(error, FileNotFoundError):
        return kind(f"{what}: {reason(error)}; accepted: a place that exists")
    return EnvironmentFault(f"{what}: {reason(error)}")


def reason(error: Exception) -> str:
    """The first line of an error's message, without secrets and without the queries of URLs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"\?[^\s'\"]+", "", redacted_text(lines[0])) if lines else ""
    return text[:300] or type(error).__name__
