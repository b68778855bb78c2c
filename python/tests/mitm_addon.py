"""An addon that answers in place of every server, so that nothing is dialled."""

from __future__ import annotations

from typing import Any

from mitmproxy import dns, http


def running() -> None:
    print("READY", flush=True)


def request(flow: http.HTTPFlow) -> None:
    client = flow.client_conn
    body = f"{flow.request.method} {flow.request.pretty_url} {flow.request.text} tls={client.tls_established} {client.transport_protocol}"
    flow.response = http.Response.make(200, body, {"content-type": "text/plain"})


def dns_request(flow: dns.DNSFlow) -> None:
    record = dns.ResourceRecord.A(flow.request.questions[0].name, __import__("ipaddress").ip_address("192.0.2.7"))
    flow.response = flow.request.succeed([record])


def tcp_message(flow: Any) -> None:
    flow.messages[-1].content = flow.messages[-1].content.upper()
