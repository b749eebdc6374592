"""Who is signed in, as Flask-Login or Flask-JWT-Extended has verified it, and what the session says."""

import json
import logging
from typing import Any
from uuid import UUID

from flask import Flask
from werkzeug import Request

from .passage import current_context

logger = logging.getLogger("flask_idempotency")

#: What Flask itself puts into a session. It tells nobody from anybody, and flashes come and go.
_OF_FLASK = frozenset({"_flashes", "_permanent"})


class SignedIn:
    """What one application knows of its callers, asked by `http.principal` for the default principal."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._warned = False

    def user(self) -> tuple[str, str] | None:
        """How the caller signed in and who it is; None for nobody. Asks those extensions that the app has set up."""
        user = _flask_login_user() if hasattr(self._app, "login_manager") else None
        if user is None and "flask-jwt-extended" in self._app.extensions:
            user = _jwt_user()
        return user

    def session(self, request: Request) -> tuple[str, str] | bytes | None:
        """Who the session is of, as a tuple; its content where it does not say; None where it has none."""
        content, sid = _read_session()
        user_id = content.get("user_id")
        if isinstance(user_id, str | int | UUID):
            return "user_id", str(user_id)
        # An id that the client did not send was made for this request, and the retry would get another.
        if isinstance(sid, str) and sid and any(sid in sent for sent in request.cookies.values()):
            return "sid", sid
        if not content:
            return None
        if not self._warned:
            self._warned = True
            logger.warning(
                "A request has a session, but nothing tells on whose behalf it comes. So that nobody hears another's "
                "answer, a retry whose session has changed is refused. Set IDEMPOTENCY_PRINCIPAL (principal=) to a "
                "callable that returns what names the caller, such as lambda request: session.get('cart_id'); to "
                "None, where callers need no telling apart."
            )
        return _canonical(content)


def _read_session() -> tuple[dict[str, Any], object]:
    """What the application has put into the session, and its id, if it has one.

    Read so that it does not show: a session that was accessed adds `Vary: Cookie` to the response. Flask 3.0 notes it
    of what is read, later ones as soon as the session is looked for.
    """
    context = current_context()
    opened = getattr(context, "_session", vars(context).get("session"))
    accessed = getattr(opened, "accessed", False)
    session = context.session
    items = dict.items(session) if isinstance(session, dict) else session.items()
    content = {name: value for name, value in items if name not in _OF_FLASK}
    sid = getattr(session, "sid", None)
    if getattr(session, "accessed", accessed) != accessed:
        session.accessed = accessed
    return content, sid


def _canonical(content: dict[str, Any]) -> bytes:
    """The same bytes for the same content, in whatever order it was put there."""
    try:
        return json.dumps(content, sort_keys=True, default=repr).encode()
    except (TypeError, ValueError):  # names of several types have no order, a cycle has no end
        return repr(content).encode("utf-8", "surrogatepass")


def _flask_login_user() -> tuple[str, str] | None:
    from flask_login import current_user

    # This marks the session, and is to: what a view says of the user that is loaded here varies by the cookie.
    if not current_user.is_authenticated:
        return None
    return "flask-login", str(current_user.get_id())


def _jwt_user() -> tuple[str, str] | None:
    from flask_jwt_extended import get_jwt_identity, verify_jwt_in_request
    from flask_jwt_extended.exceptions import JWTExtendedException
    from jwt.exceptions import PyJWTError

    try:
        # A claim is not taken on trust: the signature is verified here, since the view's decorator runs only later.
        if verify_jwt_in_request(optional=True) is None:
            return None
    except (JWTExtendedException, PyJWTError, AttributeError):
        # The view will refuse it. AttributeError: it was looked for in a JSON body that is no object.
        return None
    return "jwt", str(get_jwt_identity())
