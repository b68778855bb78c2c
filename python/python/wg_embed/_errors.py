"""Exceptions of `wg_embed`; all others are `OSError`s with `errno`."""

from __future__ import annotations

import errno


class ConfigError(ValueError):
    """A configuration that is invalid. The text names the line, the section, the key and the reason, and no value."""


def timed_out(what: str) -> TimeoutError:
    """With the `errno` of all errors."""
    return TimeoutError(errno.ETIMEDOUT, what)
