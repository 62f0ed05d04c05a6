"""RequestFault: an error in a request, with an HTTP status and a one-line message."""

from starlette.exceptions import HTTPException

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "overloaded_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""HTTP status -> type of the error in OpenAI's API; all other statuses are server errors."""
EMBEDDING_TYPES = {
    413: "Validation",
    422: "Validation",
    429: "Overloaded",
    503: "Unhealthy",
}
"""HTTP status -> type of the error in text-embeddings-inference's API. Other statuses below 500 are
validation errors, and others from 500 on are backend errors."""
CONTEXT = "context_length_exceeded"
"""The error code for a text that is too long."""


class RequestFault(HTTPException):
    """The error for a request that cannot be answered.

    `param` is the invalid field of the request body. `code` is a constant that client programs
    can check.
    """

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        headers = {"Retry-After": "1"} if status == 429 else None
        super().__init__(status, message, headers)
        self.param = param
        self.code = code

    @property
    def openai(self) -> dict[str, object]:
        """The body of the answer in the form of OpenAI's API."""
        return {
            "error": {
                "message": self.detail,
                "type": TYPES.get(self.status_code, "server_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    @property
    def embedding(self) -> dict[str, object]:
        """The body of the answer in the form of text-embeddings-inference."""
        other = "Validation" if self.status_code < 500 else "Backend"
        return {
            "error": self.detail,
            "error_type": EMBEDDING_TYPES.get(self.status_code, other),
        }
