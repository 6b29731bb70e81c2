"""Signing in with an OpenID Connect provider: authorization code with PKCE, state and nonce, by Authlib.

What the flow must remember until the provider sends the browser back is in a signed cookie of that browser.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from app.api.http.deps import Parts, PartsDep
from app.api.http.session_cookie import SIGN_IN, is_secure
from app.console.signing_in import Next, begin, local
from app.console.visit import PageRoute, bare, root_of
from app.core import users
from app.core.config import Settings
from app.core.errors import Forbidden, NotFound, Unauthorized, Unavailable

log = logging.getLogger("lethe.console")
router = APIRouter(route_class=PageRoute, include_in_schema=False)
START, BACK = f"{SIGN_IN}/oidc", f"{SIGN_IN}/oidc/back"
COOKIE = "lethe-oidc"
MINUTES = 10
SIGNED = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"}
"""Algorithms of ID tokens: a provider may offer unsigned ones, too."""


@router.get(START)
async def start(request: Request, held: PartsDep, next: Next = "") -> Response:  # noqa: A002  (as its parameter is called)
    """Send the browser to the provider."""
    provider = await _provider(request, held)
    request.scope["session"] = kept = {"next": local(next)}
    response: Response = await provider.authorize_redirect(request, _address(held.settings, request) + BACK)
    _keep(response, held.settings, request, kept)
    return response


@router.get(BACK)
async def back(request: Request, held: PartsDep) -> Response:
    """The provider has sent the browser back: look at what it says, and begin a session."""
    from authlib.common.errors import AuthlibBaseError
    from httpx2 import HTTPError
    from joserfc.errors import JoseError

    provider = await _provider(request, held)
    kept = _kept(held.settings, request)
    if kept is None:
        raise Forbidden("This browser did not ask to sign in, or too long ago. Begin again.", kind="oidc")
    request.scope["session"] = kept
    try:
        token = await provider.authorize_access_token(request)
        claims = dict(token.get("userinfo") or {})
        if claims and held.settings.oidc_role_claim not in claims and "userinfo_endpoint" in provider.server_metadata:
            further = await provider.userinfo(token=token)
            if further.get("sub") == claims["sub"]:
                claims = {**further, **claims}
    except (AuthlibBaseError, JoseError, HTTPError, ValueError) as error:
        log.warning("a sign-in by OpenID Connect was refused: %s", type(error).__name__)
        raise Forbidden("The provider's answer cannot be accepted. Begin again.", kind="oidc") from None
    if not claims.get("sub"):
        raise Forbidden("The provider does not say who you are.", kind="oidc")
    role = role_of(held.settings, claims)
    identity = f"{held.settings.oidc_issuer} {claims['sub']}"
    name = str(claims.get("name") or claims.get("preferred_username") or claims.get("email") or claims["sub"])[:200]

    def opened() -> str:
        with held.database.write() as session:
            user = users.identified(session, held.settings.oidc_tenant, identity, name, role)
            return users.open_session(session, user)

    try:
        session_token = await run_in_threadpool(opened)
    except Unauthorized as error:
        return bare(request, "refused.html.j2", 403, **_refusal(error.detail, root_of(request)))
    response = begin(held, request, session_token, str(kept.get("next", "")))
    response.delete_cookie(COOKIE, path=root_of(request) + SIGN_IN)
    return response


def _refusal(detail: str, root: str) -> dict[str, Any]:
    problem = {"title": "You cannot sign in", "detail": detail, "status": 403}
    return {
        "problem": problem,
        "lines": [],
        "phrase": "Not signed in",
        "typed": {},
        "own": {},
        "sign_in": "",
        "back": root + SIGN_IN,
    }


def role_of(settings: Settings, claims: Mapping[str, Any]) -> str:
    """The role of the first of the settings' groups that the user is in.

    Raises:
        Forbidden: of none.
    """
    found = claims.get(settings.oidc_role_claim, ())
    groups = {found} if isinstance(found, str) else {str(each) for each in found} if isinstance(found, list) else set()
    for group, role in settings.oidc_roles.items():
        if group in groups:
            return role
    raise Forbidden("Your account is in no group that may use this console. Ask your administrator.", kind="no-role")


async def _provider(request: Request, held: Parts) -> Any:
    """Authlib's client of the provider, made at its first use: a service without one loads none of it.

    Raises:
        NotFound: the settings name no provider.
        Unavailable: it does not answer, or is not the one that the settings name.
    """
    settings = held.settings
    if not settings.oidc_issuer:
        raise NotFound("This service has no OpenID Connect provider.")
    found = getattr(request.app.state, "oidc", None)
    if found is None:
        from authlib.integrations.starlette_client import OAuth

        found = OAuth().register(
            "provider",
            client_id=settings.oidc_client_id,
            client_secret=settings.oidc_client_secret.get_secret_value(),
            server_metadata_url=settings.oidc_issuer.rstrip("/") + "/.well-known/openid-configuration",
            client_kwargs={"scope": settings.oidc_scope, "code_challenge_method": "S256", "timeout": 10},
        )
        request.app.state.oidc = found
    from httpx2 import HTTPError

    try:
        metadata = await found.load_server_metadata()
    except (HTTPError, ValueError) as error:
        log.warning("the OpenID Connect provider does not answer: %s", type(error).__name__)
        raise Unavailable("The provider does not answer. Try again, or sign in with a link.") from None
    if str(metadata.get("issuer", "")).rstrip("/") != settings.oidc_issuer.rstrip("/"):
        raise Unavailable("The provider says that it is another issuer than LETHE_OIDC_ISSUER.")
    offered = metadata.get("id_token_signing_alg_values_supported") or ["RS256"]
    metadata["id_token_signing_alg_values_supported"] = [each for each in offered if each in SIGNED]
    return found


def _address(settings: Settings, request: Request) -> str:
    return (settings.public_url or f"{request.url.scheme}://{request.url.netloc}") + root_of(request)


def _keep(response: Response, settings: Settings, request: Request, kept: Mapping[str, Any]) -> None:
    text = urlsafe_b64encode(json.dumps(kept).encode())
    value = f"{text.decode()}.{_mac(settings, text)}"
    secure, path = is_secure(settings, request.scope), root_of(request) + SIGN_IN
    response.set_cookie(COOKIE, value, 60 * MINUTES, path=path, secure=secure, httponly=True, samesite="lax")


def _kept(settings: Settings, request: Request) -> dict[str, Any] | None:
    text, _, mac = request.cookies.get(COOKIE, "").partition(".")
    if not text or not hmac.compare_digest(mac.encode(), _mac(settings, text.encode()).encode()):
        return None
    return cast("dict[str, Any]", json.loads(urlsafe_b64decode(text)))


def _mac(settings: Settings, text: bytes) -> str:
    return hmac.new(settings.secret_bytes(), b"oidc\x00" + text, hashlib.sha256).hexdigest()
