"""Signing of a single run."""

import time
from collections.abc import Mapping
from typing import Any

from skillfleet_auth.signing import TokenSigner, load_private_key
from skillfleet_cli.exits import CommandError
from skillfleet_cli.output import console, print_json, styled
from skillfleet_ledger import Settings
from skillfleet_producer.submission import Options, build_submission, read_call, split_task


def print_token(
    skill: str,
    arguments: Mapping[str, Any],
    caller: Mapping[str, Any],
    run_id: str | None,
    *,
    as_json: bool,
) -> None:
    """Print the id and the token of one run; raises SettingsError, InvalidArgumentsError."""
    settings = Settings.load()
    if settings.auth_signing_key_file is None:
        raise CommandError(
            "no key: set SKILLFLEET_AUTH_SIGNING_KEY_FILE (skillfleet keys new makes one)"
        )
    signer = TokenSigner(*load_private_key(settings.auth_signing_key_file), settings)
    call = read_call(settings, *split_task(skill), arguments)
    new = build_submission(settings, call, Options(), time.time() * 1000)
    new = new.changed(id=run_id or new.id)
    token = signer.sign(new, caller)
    if as_json:
        print_json({"run": new.id, "token": token})
        return
    console().print(styled(f"run:   {new.id}"))
    console().print(styled(f"token: {token}"))
