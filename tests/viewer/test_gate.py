"""Who knows the token comes in, nobody else."""

import http.client
import http.server
import threading

import pytest

from usd.viewer.gate import COOKIE, Gate, knows_token
from usd.viewer.options import ViewerOptions


class Inside(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"inside {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def gate():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Inside)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    gate = Gate("127.0.0.1", 0, server.server_address[1], "secret")
    yield gate
    gate.close()
    server.shutdown()


def get(gate: Gate, path: str, **headers: str) -> tuple[int, bytes, str]:
    connection = http.client.HTTPConnection("127.0.0.1", gate.port, timeout=5)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    found = answer.status, answer.read(), answer.getheader("Set-Cookie") or ""
    connection.close()
    return found


def test_the_token_opens_the_gate_and_becomes_a_cookie(gate):
    status, body, cookie = get(gate, "/page?token=secret")
    assert (status, body) == (200, b"inside /page?token=secret")
    assert cookie.startswith(f"{COOKIE}=secret") and "HttpOnly" in cookie
    assert get(gate, "/script.js", Cookie=cookie.split(";")[0])[0] == 200


@pytest.mark.parametrize("path", ["/", "/?token=", "/?token=secre", "/?token=secrets", "/?other=secret"])
def test_nobody_else_comes_in(gate, path):
    status, body, cookie = get(gate, path, Cookie="usd_viewer_token=wrong")
    assert status == 403 and b"inside" not in body and not cookie


def test_what_is_no_request_is_no_key():
    assert not knows_token(b"\r\n\r\n", "secret")
    assert not knows_token(b"GET\r\nCookie: ;;;=\r\n\r\n", "secret")
    assert knows_token(b"GET / HTTP/1.1\r\nCookie: a=b; usd_viewer_token=secret\r\n\r\n", "secret")


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("::1", False),
        ("0.0.0.0", True),
        ("10.0.0.3", True),
        ("name", True),
    ],
)
def test_another_address_than_this_machines_asks_for_a_token(host, public):
    assert ViewerOptions(host=host).is_public is public
