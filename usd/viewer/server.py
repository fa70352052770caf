"""The page's server: where it listens, who may come in, and how to reach it from elsewhere."""

import contextlib
import getpass
import importlib.util
import io
import os
import secrets
import socket

from usd.core.errors import UserError
from usd.viewer.budget import LoopTime
from usd.viewer.gate import Gate
from usd.viewer.options import HERE, ViewerOptions

TOKEN = "USD_VIEWER_TOKEN"
"""Environment variable of the token that a viewer on another address asks for; a random one without it."""


class ViewerServer:
    """A running page. ``address`` is what to type into a browser on this machine, the token included."""

    def __init__(self, options: ViewerOptions) -> None:
        require_viser()
        import viser

        self.options = options
        self.gate: Gate | None = None
        inner = 0 if options.is_public else options.port
        with contextlib.redirect_stdout(io.StringIO()):  # its own words say the address without the token
            self.page: viser.ViserServer = viser.ViserServer(HERE, inner, label="usd", verbose=False)
        self.token = (os.environ.get(TOKEN) or secrets.token_urlsafe(18)) if options.is_public else ""
        try:
            if options.is_public:
                self.gate = Gate(options.host, options.port, self.page.get_port(), self.token)
        except OSError as error:
            self.close()
            raise UserError(
                f"viewer.host: {options.host}:{options.port}: cannot be served ({error.strerror}); expected an "
                "address of this machine and a free port"
            ) from error
        loops = [self.page.get_event_loop(), *([] if self.gate is None else [self.gate.loop])]
        self._threads = [LoopTime(loop) for loop in loops]

    def seconds(self) -> float:
        """Return the processor seconds that the threads behind the page have taken."""
        return sum(thread.read() for thread in self._threads)

    @property
    def port(self) -> int:
        """Port that a browser connects to."""
        return self.page.get_port() if self.gate is None else self.gate.port

    @property
    def address(self) -> str:
        """The address to type into a browser."""
        host = HERE if self.options.host in ("0.0.0.0", "::", HERE) else self.options.host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def invitation(self) -> list[str]:
        """Return the lines that say how to open the page, from here and from another machine."""
        lines = [f"viewer: {self.address}"]
        if self.gate is None:
            name = f"{getpass.getuser()}@{socket.gethostname()}"
            lines.append(f"viewer, from another machine: ssh -L {self.port}:{HERE}:{self.port} {name}")
        elif self.options.host in ("0.0.0.0", "::"):
            name = socket.gethostname()
            lines.append(f"viewer, from another machine: http://{name}:{self.port}/?token={self.token}")
        return lines

    def close(self) -> None:
        """End the page, without a word of the library's own."""
        if self.gate is not None:
            self.gate.close()
        with contextlib.redirect_stdout(io.StringIO()):
            self.page.stop()


def require_viser() -> None:
    """Raise ``UserError`` where the library behind the page is not installed."""
    if importlib.util.find_spec("viser") is None:
        raise UserError("viewer: the package viser is not installed; pip install 'usd[viewer]'")
