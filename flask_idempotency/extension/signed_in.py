"""Who is signed in, as Flask-Login or Flask-JWT-Extended has verified it."""

import logging

from flask import Flask
from werkzeug import Request

logger = logging.getLogger("flask_idempotency")


class SignedInUser:
    """The default principal's first source: asks those of the two extensions that the application has set up."""

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._warned = False

    def __call__(self, request: Request) -> tuple[str, str] | None:
        """How the user signed in and who it is; None for nobody."""
        user = None
        if hasattr(self._app, "login_manager"):
            user = _flask_login_user()
        if user is None and "flask-jwt-extended" in self._app.extensions:
            user = _jwt_user()
        if user is None and not self._warned and "HTTP_COOKIE" in request.environ:
            self._warn_of_anonymous_session(request)
        return user

    def _warn_of_anonymous_session(self, request: Request) -> None:
        if "HTTP_AUTHORIZATION" in request.environ:
            return
        if hasattr(self._app, "login_manager") or self._app.config["SESSION_COOKIE_NAME"] not in request.cookies:
            return
        self._warned = True
        logger.warning(
            "A request has a session cookie, but nothing tells on whose behalf it comes: all such requests share "
            "one principal, and could hear each other's answers. Set IDEMPOTENCY_PRINCIPAL to a callable that "
            "returns the user, such as lambda request: session.get('user_id')."
        )


def _flask_login_user() -> tuple[str, str] | None:
    from flask_login import current_user

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
    except (JWTExtendedException, PyJWTError):
        return None  # the view will refuse it
    return "jwt", str(get_jwt_identity())
