"""Where the Supabase project is and the key to it: what connection `supabase` says, with registered errors."""

from __future__ import annotations

from mdw_supabase.hook import (
    CONNECTION_ID,
    Credentials,
    CredentialsError,
    InvalidCredentialsError,
    MissingCredentialsError,
    PlaintextRefusedError,
    SupabaseHook,
)

from include.core.errors import MigrationError

_CODES: dict[type[CredentialsError], str] = {
    MissingCredentialsError: "CONNECTION_MISSING",
    InvalidCredentialsError: "CONNECTION_INVALID",
    PlaintextRefusedError: "TARGET_PLAINTEXT",
}


def is_configured() -> bool:
    """Whether somebody has set the connection or its variables, rightly or not."""
    try:
        SupabaseHook().credentials()
    except CredentialsError as error:
        return not isinstance(error, MissingCredentialsError)
    return True


def supabase_project() -> Credentials:
    """The project's address and key.

    Raises:
        MigrationError: CONNECTION_MISSING, CONNECTION_INVALID, or TARGET_PLAINTEXT where the key would cross a network
            in the clear.
    """
    try:
        return SupabaseHook().credentials()
    except CredentialsError as error:
        raise MigrationError(_CODES[type(error)], str(error), connection=CONNECTION_ID) from None
