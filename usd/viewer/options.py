"""Options of the viewer."""

import ipaddress
from dataclasses import dataclass

from usd.core.config import option

HERE = "127.0.0.1"


@dataclass(frozen=True)
class ViewerOptions:
    """The address of the viewer, and the share of a training's time it may take."""

    enable: bool = option(False, "whether the training is shown in the browser; the flag --viewer sets it")
    host: str = option(
        HERE,
        "address that the viewer is served at; another one than 127.0.0.1 is open to the network and asks for a token",
    )
    port: int = option(7007, "port of the viewer; the next free one where it is taken", ge=1, le=65535)
    share: float = option(
        0.2,
        "largest share of a training's time that its viewer takes while somebody moves: pictures, controls, and "
        "the threads that serve the page",
        gt=0,
        le=1,
    )
    idle_share: float = option(
        0.005, "share of a training's time that renders a view again which nobody moves", ge=0, le=1
    )
    max_size: int = option(512, "rows of the viewer's largest picture", ge=16, le=4096)
    start_paused: bool = option(
        False, "whether the first step waits until somebody resumes the training on the page"
    )
    stay_open: bool = option(
        True, "whether the finished object is served until Ctrl-C or the page's Close button"
    )

    @property
    def is_public(self) -> bool:
        """True where other machines can reach the address."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"
