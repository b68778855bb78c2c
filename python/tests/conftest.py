"""Options and fixtures."""

from __future__ import annotations

import importlib
import signal
import sys
from types import ModuleType

import pytest
from support import Interface


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--against",
        choices=("ours", "original"),
        default="ours",
        help="what the conformance tests run on; `original` needs --originals for mitmproxy_wireguard",
    )
    parser.addoption(
        "--originals", help="where `pip install --target` has put mitmproxy_wireguard 0.1.23 and mitmproxy_rs 0.12.15"
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell that runs this in the background has SIGINT ignored, here and in the programs that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "ours_only(reason, of=None): the original, or one of the two, does not do this")
    originals = config.getoption("--originals")
    if config.getoption("--against") == "original" and originals:
        sys.path.insert(0, originals)


@pytest.fixture(autouse=True)
def _what_the_original_does(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--against") != "original":
        return
    for marker in request.node.iter_markers("ours_only"):
        of = marker.kwargs.get("of")
        if of is None or request.node.callspec.params.get("interface") == of:
            pytest.skip(f"the original: {marker.args[0]}")


@pytest.fixture
def original(request: pytest.FixtureRequest) -> bool:
    """Whether the tests run on the originals."""
    return bool(request.config.getoption("--against") == "original")


@pytest.fixture
def legacy(original: bool) -> ModuleType:
    """`mitmproxy_wireguard`."""
    module = importlib.import_module("mitmproxy_wireguard")
    is_ours = "wg_embed" in (module.__doc__ or "")
    if is_ours is original:
        pytest.skip("mitmproxy_wireguard 0.1.23 was not given by --originals")
    return module


@pytest.fixture
def modern(original: bool) -> ModuleType:
    """What has `Stream` and `wireguard`."""
    if original:
        module: ModuleType = pytest.importorskip("mitmproxy_rs")
        return module
    return importlib.import_module("wg_embed.mitmproxy")


@pytest.fixture(params=["legacy", "modern"])
def interface(request: pytest.FixtureRequest) -> Interface:
    """Both, one after the other."""
    return Interface(request.param, request.getfixturevalue(request.param))
