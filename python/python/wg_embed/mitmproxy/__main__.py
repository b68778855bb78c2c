"""`python -m wg_embed.mitmproxy mitmdump|mitmweb|mitmproxy [OPTIONS]`: mitmproxy with wg-embed's WireGuard."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Union

TOOLS = ("mitmdump", "mitmweb", "mitmproxy")


def main(arguments: list[str]) -> Union[int, str, None]:
    """Runs a tool of mitmproxy; returns what `sys.exit` is to get."""
    if not arguments or arguments[0] not in TOOLS:
        return f"usage: python -m wg_embed.mitmproxy {'|'.join(TOOLS)} [OPTIONS]"
    try:
        tools: Any = importlib.import_module("mitmproxy.tools.main")
    except ImportError as error:
        return f"mitmproxy is not installed for this Python ({error})"

    from . import install

    install()
    tool, *options = arguments
    # Tools that name themselves, as for --version, look there.
    sys.argv = arguments
    result: Union[int, str, None] = getattr(tools, tool)(options)
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
