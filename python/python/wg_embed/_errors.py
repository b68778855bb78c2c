"""Exceptions of `wg_embed`; everything else is an `OSError` with `errno`."""

from __future__ import annotations


class ConfigError(ValueError):
    """A configuration that is invalid. The text names the line, the section, the key and the reason, and no value."""
