"""The identity of a caller: models that an agent may name as its `auth_model`."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from skillfleet.errors import UnauthorizedError

ModelT = TypeVar("ModelT", bound=BaseModel)


class NoAuth(BaseModel):
    """The caller is not identified. It has no scopes."""

    model_config = ConfigDict(frozen=True)


class APIKeyAuth(BaseModel):
    """The caller holds an API key: its id (never the key itself) and the key's scopes."""

    model_config = ConfigDict(frozen=True)

    api_key_id: str
    scopes: tuple[str, ...] = ()


class JWTAuth(BaseModel):
    """The caller holds a signed token: its subject, organisation, e-mail address and scopes."""

    model_config = ConfigDict(frozen=True)

    sub: str
    org_id: str | None = None
    email: str | None = None
    scopes: tuple[str, ...] = ()


def auth_from_claims(model: type[ModelT], claims: Mapping[str, Any] | None) -> ModelT:
    """Build an agent's `auth_model` from a caller's claims (None: no claims).

    Claims that the model does not know are ignored. Raises `UnauthorizedError`, which names
    the claims that are missing or wrong, but never shows their values.
    """
    try:
        return model.model_validate(dict(claims or {}))
    except ValidationError as error:
        wrong = sorted({".".join(map(str, item["loc"])) for item in error.errors()})
        raise UnauthorizedError(
            f"the caller's claims do not fit {model.__name__}: {', '.join(wrong)}"
        ) from None
    except Exception as error:
        # The model's own validator raised it; its message may show the claims.
        raise UnauthorizedError(
            f"the caller's claims cannot be read by {model.__name__}: {type(error).__name__}"
        ) from error


def scopes_of(auth: BaseModel) -> frozenset[str]:
    """Return the scopes that a caller has; none for a model without a field `scopes`."""
    return frozenset(getattr(auth, "scopes", None) or ())


def narrowed_auth(model: type[ModelT], caller: BaseModel) -> ModelT:
    """Return the identity for a child of `caller`'s run: the same claims, no additional scope.

    `model` is the called agent's `auth_model`. Raises `UnauthorizedError` when the caller's
    claims do not fit it.
    """
    auth = auth_from_claims(model, caller.model_dump())
    granted = scopes_of(auth)
    if granted <= scopes_of(caller):
        return auth
    kept = type(auth.scopes)(sorted(granted & scopes_of(caller)))  # type: ignore[attr-defined]
    return auth.model_copy(update={"scopes": kept})


def claims_for_call(
    claims: Mapping[str, Any] | None, auth: BaseModel, tenant_claim: str | None = None
) -> dict[str, Any]:
    """Return the claims that a run passes to a child: the same caller, no additional scope.

    `claims` are those of the calling run, `auth` is the identity that its agent's model built from
    them. Claims that the model does not know are not passed on, except for the subject and the
    claim that names the tenant.
    """
    known = {*type(auth).model_fields, "sub", tenant_claim}
    passed = {name: value for name, value in (claims or {}).items() if name in known}
    if "scopes" in passed:
        passed["scopes"] = sorted(scopes_of(auth) & set(passed["scopes"]))
    return passed
