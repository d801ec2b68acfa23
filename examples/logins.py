"""Logins that are listed and revoked, a counter of failed ones, and a session that is saved with the request's rows."""

from typing import Any

from litestar import Litestar, Request, delete, get, post
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.params import FromPath, JSONBody

from sqlstore.adapters.sqlite import SqliteConfig
from sqlstore.litestar import (
    SQLSessionConfig,
    SQLStorePlugin,
    rotate_session_id,
    save_session,
    set_principal,
)

AnyRequest = Request[Any, Any, Any]
Credentials = JSONBody[dict[str, str]]
PASSWORDS = {"ada": "for-example"}

# region config
config = SqliteConfig(pool_config={"database": "logins.db"})
sessions = SQLSessionConfig(
    max_age=8 * 3600,  # seconds without a request
    absolute_timeout=7 * 24 * 3600,  # seconds since the login
    max_sessions_per_principal=5,
    record_client=True,
)
# endregion


# region login
@post("/login")
async def login(request: AnyRequest, data: Credentials) -> None:
    """Begin to be somebody: the session gets a new id, and the old one is dead."""
    if PASSWORDS.get(data["name"]) != data["password"]:
        request.session["failures"] = request.session.get("failures", 0) + 1
        await save_session(request)  # now, whatever the request's transaction will come to
        raise NotAuthorizedException
    request.session.update(name=data["name"])
    set_principal(request, data["name"])


# endregion


def user_of(request: AnyRequest) -> str:
    """Return who is logged in."""
    if "name" not in request.session:
        raise NotAuthorizedException
    name: str = request.session["name"]
    return name


# region devices
@get("/devices")
async def devices(request: AnyRequest) -> list[dict[str, Any]]:
    """List where the user is logged in."""
    logins = sessions.sessions_of(request.app)
    return [
        {
            "id": device.id,  # no secret: it tells devices apart, and logs nobody in
            "here": device.id == logins.current_id(request),
            "since": device.created_at,
            "last_seen": device.last_seen,
            "browser": device.user_agent,
        }
        for device in await logins.list_sessions(user_of(request))
    ]


@delete("/devices/{device_id:str}")
async def log_out_there(request: AnyRequest, device_id: FromPath[str]) -> None:
    """Log one out; looking it up among the user's own keeps others' out of reach."""
    logins = sessions.sessions_of(request.app)
    for device in await logins.list_sessions(user_of(request)):
        if device.id == device_id:
            await logins.revoke(device)
            return
    raise NotFoundException


@post("/password")
async def change_password(request: AnyRequest, data: Credentials) -> dict[str, int]:
    """Change the password, and log out everywhere else."""
    PASSWORDS[user_of(request)] = data["password"]
    rotate_session_id(request)
    return {"logged_out": await sessions.sessions_of(request.app).revoke_others(request)}


# endregion


@post("/logout")
async def logout(request: AnyRequest) -> None:
    """End the session: its row is deleted, and so is the cookie."""
    request.clear_session()


app = Litestar(
    [login, devices, log_out_there, change_password, logout],
    plugins=[SQLStorePlugin(config)],
    middleware=[sessions.middleware],
)
