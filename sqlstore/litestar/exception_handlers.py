"""What a client is told of our exceptions; the texts of the database stay in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.exceptions import HTTPException, NotFoundException, ServiceUnavailableException
from litestar.exceptions.responses import create_exception_response  # pyright: ignore[reportUnknownVariableType]

from ..exceptions import (
    ContentionError,
    ForeignKeyViolationError,
    NotFoundError,
    SQLStoreError,
    UnavailableError,
    UniqueViolationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar import Request, Response

__all__ = ("HANDLERS",)

_CONFLICT = 409
_DEFAULT: Any = create_exception_response  # pyright: ignore[reportUnknownVariableType]


def _answer(request: Request[Any, Any, Any], error: Any) -> Response[Any]:  # noqa: ANN401 - ours, then Litestar's
    route_handler: Any = request.route_handler
    registered: dict[Any, Any] = route_handler.resolve_exception_handlers()
    handlers = {key: handler for key, handler in registered.items() if handler is not _answer}
    ours = type(error).__mro__[: type(error).__mro__.index(SQLStoreError) + 1]
    answer: Any = _first(handlers, ours)
    if answer is None:
        error = _translated(error)
        answer = _first(handlers, (error.status_code, *type(error).__mro__)) or _DEFAULT
    response: Response[Any] = answer(request, error)
    return response


def _first(handlers: Mapping[Any, Any], keys: Sequence[Any]) -> Any:  # noqa: ANN401
    return next((handlers[key] for key in keys if key in handlers), None)


def _translated(error: SQLStoreError) -> HTTPException:
    if isinstance(error, NotFoundError):
        translated: HTTPException = NotFoundException(detail=str(error))
    elif isinstance(error, UniqueViolationError):
        translated = HTTPException(status_code=_CONFLICT, detail="this already exists")
    elif isinstance(error, ForeignKeyViolationError):
        detail = "this refers to something that does not exist, or something refers to it"
        translated = HTTPException(status_code=_CONFLICT, detail=detail)
    else:
        translated = ServiceUnavailableException(detail="the database is not available, try again later")
    translated.__cause__ = error
    return translated


HANDLERS: dict[Any, Any] = {
    ContentionError: _answer,
    ForeignKeyViolationError: _answer,
    NotFoundError: _answer,
    UnavailableError: _answer,
    UniqueViolationError: _answer,
}
