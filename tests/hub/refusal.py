"""How the Hub says no."""


class Refusal(Exception):
    """An answer that is an error.

    Source: the headers are those that huggingface_hub's `hf_raise_for_status` reads.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        self.headers["X-Error-Message"] = message
        if code:
            self.headers["X-Error-Code"] = code
