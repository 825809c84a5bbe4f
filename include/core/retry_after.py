"""How long a server asks to be left alone, by the HTTP header Retry-After."""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime


def retry_after(value: str) -> float | None:
    """Seconds to wait by a Retry-After header (RFC 9110 section 10.2.3); None without a usable one."""
    value = value.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", value):
        return float(value)
    try:
        until = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
