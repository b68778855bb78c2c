"""All that shows of mitmproxy_wireguard and of mitmproxy_rs without a call: that of the originals."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, Interface, run

LEGACY = "mitmproxy_wireguard"
COMPARED = [
    (LEGACY, LEGACY, []),
    (f"{LEGACY}.{LEGACY}", f"{LEGACY}.{LEGACY}", []),
    ("mitmproxy_rs", "wg_embed.mitmproxy", ["Stream", "wireguard"]),
    ("mitmproxy_rs.wireguard", "wg_embed.mitmproxy.wireguard", []),
]

# Classes that have no constructor at all are there from the ABI of Python 3.10 on: ours has one that raises TypeError.
OF_THE_ABI = {("Stream", "signature"), ("WireGuardServer", "signature")}


def attributes(path: list[str], module: str, names: list[str]) -> dict[str, Any]:
    program = str(Path(__file__).parent / "attributes.py")
    command = [sys.executable, program, module, *names]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert ended.returncode == 0, ended.stderr
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.ours_only("it is what ours are compared with")
@pytest.mark.parametrize(("original", "ours", "names"), COMPARED, ids=[compared[0] for compared in COMPARED])
def test_attributes_are_those_of_the_original(
    request: pytest.FixtureRequest, original: str, ours: str, names: list[str]
) -> None:
    originals = request.config.getoption("--originals")
    if originals is None:
        pytest.skip("--originals was not given")
    if not (Path(originals) / original.partition(".")[0]).is_dir():
        pytest.skip(f"--originals does not have {original}, which may be for newer Pythons")
    expected, found = attributes([originals], original, names), attributes(sys.path, ours, names)
    for name, facts in expected.items():
        if isinstance(facts, str):
            assert found[name] == facts
            continue
        differences = {
            fact: (value, found[name][fact])
            for fact, value in facts.items()
            if found[name][fact] != value and (name, fact) not in OF_THE_ABI
        }
        assert differences == {}, name
    assert {name for name in found if not name.endswith(".__new__")} == {
        name for name in expected if not name.endswith(".__new__")
    }


def test_functions_have_the_names_of_their_interface(interface: Interface) -> None:
    """Also where there is no original to compare with."""
    is_legacy = interface.name == "legacy"
    module = interface.module if is_legacy else interface.module.wireguard
    start = "start_server" if is_legacy else "start_wireguard_server"
    of = f"{LEGACY}.{LEGACY}" if is_legacy else module.__name__
    for name, signature in (("genkey", "()"), ("pubkey", "(private_key)"), (start, None)):
        function = getattr(module, name)
        assert (function.__name__, function.__qualname__, function.__module__) == (name, name, of)
        assert signature is None or function.__text_signature__ == signature
        assert repr(function) == f"<built-in function {name}>" and function.__doc__
        assert copy.copy(function) is function and pickle.loads(pickle.dumps(function)) is function


def test_objects_cannot_be_copied(interface: Interface) -> None:
    async def main() -> None:
        async with interface.session() as session:
            stream, _, _ = await session.connect()
            for thing in (session.server, stream):
                for call in (copy.copy, copy.deepcopy, pickle.dumps, weakref.ref, vars, len, iter):
                    with pytest.raises(TypeError):
                        call(thing)
                assert bool(thing) and thing == thing and repr(thing).startswith(type(thing).__name__ + "(")

    run(main())
