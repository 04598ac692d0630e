"""How sources let us in: the kinds of credentials that a connector declares in `authenticates_by`.

Declarations only. Where the secrets are kept is in `credentials.py`, how tokens are obtained in `oauth.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that a person creates at the provider and that is sent with every request.

    Args:
        header: The header that carries it, for instance `X-Api-Key`.
        parameter: Or the query parameter, where the provider knows no header.
    """

    header: str | None = None
    parameter: str | None = None
    kind: ClassVar[str] = "api-key"
    needs: ClassVar[tuple[str, ...]] = ("api_key",)


@dataclass(frozen=True, slots=True)
class OAuth:
    """OAuth 2.0 in the name of one person (RFC 6749, code with PKCE): refresh tokens, which may rotate.

    Args:
        authorize_url: Where the person consents, in a browser.
        token_url: Where codes and refresh tokens become access tokens.
        scopes: What is asked for; empty means what the app is registered with.
        client_authentication: How the app proves itself at the token address: HTTP `basic`, or fields of the `body`.
    """

    authorize_url: str
    token_url: str
    scopes: tuple[str, ...] = ()
    client_authentication: Literal["basic", "body"] = "basic"
    kind: ClassVar[str] = "oauth"
    needs: ClassVar[tuple[str, ...]] = ("client_id", "client_secret", "refresh_token")


@dataclass(frozen=True, slots=True)
class ServerToServer:
    """An app that acts for a whole account without a person's consent; there are no refresh tokens.

    Args:
        token_url: Where access tokens are had.
        grant_type: The grant, for instance `client_credentials` or Zoom's `account_credentials`.
        client_authentication: See `OAuth`.
    """

    token_url: str
    grant_type: str = "client_credentials"
    client_authentication: Literal["basic", "body"] = "basic"
    kind: ClassVar[str] = "server-to-server"
    needs: ClassVar[tuple[str, ...]] = ("account_id", "client_id", "client_secret")


Authentication = ApiKey | OAuth | ServerToServer
