"""An addon that answers in place of every server, so that nothing is dialled."""

from __future__ import annotations

import ipaddress
from typing import Any

from mitmproxy import dns, http
from mitmproxy.net.dns import types
from mitmproxy.proxy import commands, events, layer

# Everything that goes there is answered in upper case.
ECHOES = ("10.0.0.42", "fd00::42")
ADDRESSES: dict[int, tuple[Any, Any]] = {
    types.A: (dns.ResourceRecord.A, ipaddress.IPv4Address("192.0.2.7")),
    types.AAAA: (dns.ResourceRecord.AAAA, ipaddress.IPv6Address("2001:db8::7")),
}


class UpperCase(layer.Layer):
    """Answers data and datagrams in upper case."""

    def _handle_event(self, event: events.Event) -> Any:
        if isinstance(event, events.DataReceived):
            yield commands.SendData(event.connection, event.data.upper())
        elif isinstance(event, events.ConnectionClosed):
            yield commands.CloseConnection(event.connection)


def running() -> None:
    print("READY", flush=True)


def next_layer(data: layer.NextLayer) -> None:
    address = data.context.server.address
    if address is not None and address[0] in ECHOES:
        data.layer = UpperCase(data.context)


def request(flow: http.HTTPFlow) -> None:
    client, sent = flow.client_conn, flow.request
    how = f"tls={client.tls_established} {client.transport_protocol} {sent.http_version}"
    body = f"{sent.method} {sent.pretty_url} {sent.text} {how}"
    flow.response = http.Response.make(200, body, {"content-type": "text/plain"})


def dns_request(flow: dns.DNSFlow) -> None:
    question = flow.request.questions[0]
    if found := ADDRESSES.get(question.type):
        make, address = found
        flow.response = flow.request.succeed([make(question.name, address)])
    else:
        flow.response = flow.request.succeed([])
