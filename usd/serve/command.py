"""A job service on this machine: drop a picture or type a sentence, watch the object, download it.

usd serve                                  # http://127.0.0.1:7008/, and the ssh line for a machine elsewhere
usd serve --jobs 2 --out outputs/serve     # two jobs at a time; a folder for each job
usd serve --blender-addon usd.zip          # write the Blender add-on, a client of the service, and leave
usd serve --host 0.0.0.0                   # for the network; then every request needs the token that is printed

Ctrl-C ends it with every job's step saved. The same command again goes on, also after the server was killed.
"""

import argparse
import contextlib
import getpass
import importlib.util
import os
import secrets
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path

from usd.app.experiment import short_path
from usd.core import files, process
from usd.core.console import say
from usd.core.errors import UserError
from usd.core.places import output

HERE = "127.0.0.1"
ANY = ("0.0.0.0", "::")
PORT = 7008
TOKEN = "USD_SERVE_TOKEN"
"""Environment variable of the token that another address asks for; a random one without it."""
SHORTEST_TOKEN = 16
NEXT_PORTS = 20
PATIENCE = 5.0
ADDON = Path(__file__).with_name("blender")


def serve_parser() -> argparse.ArgumentParser:
    """Return the command line of ``usd serve``."""
    parser = argparse.ArgumentParser(
        prog="usd serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("outputs", "serve"), help="a folder for all jobs")
    parser.add_argument("--host", default=HERE, help="address; another than 127.0.0.1 asks for a token")
    parser.add_argument("--port", type=int, default=PORT, help="port; the next free one where it is taken")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="jobs that run at the same time")
    parser.add_argument("--gpus", type=float, help="GPUs a job takes; 0.5: two share one. By default 1, or 0")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of a job")
    parser.add_argument("--largest", type=float, default=20, metavar="MB", help="size of the largest upload")
    parser.add_argument(
        "--blender-addon", type=Path, metavar="ZIP", help="write the Blender add-on and leave"
    )
    return parser


def write_addon(path: Path) -> Path:
    """Write the Blender add-on as a zip that Blender installs from disk. Raises ``UserError``."""
    if path.suffix.lower() != ".zip":
        raise UserError(f"--blender-addon {path}: expected the name of a .zip file")
    parts = [*sorted(ADDON.glob("*.py")), *sorted(ADDON.glob("*.toml"))]
    with (
        files.writable(path),
        files.replace_atomically(output(path)) as partial,
        zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for file in parts:
            archive.write(file, f"usd_jobs/{file.name}")
    return path


def check_options(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for values that argparse lets through."""
    if not 1 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: expected 1 to 65535")
    if args.jobs < 1 or args.threads < 1 or (args.gpus or 0) < 0 or not args.largest > 0:
        raise UserError(
            "--jobs, --threads, --gpus, --largest: expected at least one job and thread, and no less than 0"
        )


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at the first free port from ``port`` on. Raises ``UserError``."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem: OSError | None = None
    for candidate in range(port, min(port + NEXT_PORTS, 65536)):
        listener = socket.socket(family, socket.SOCK_STREAM)
        if os.name != "nt":  # where it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            problem = error
    raise UserError(
        f"--host {host}, --port {port}: cannot be served ({problem and problem.strerror}); expected an address of "
        "this machine and a free port"
    )


def new_token() -> str:
    """Return the token of the environment, or a random one. Raises ``UserError`` for one that can be guessed."""
    token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    if (
        len(token) < SHORTEST_TOKEN
        or not token.isascii()
        or not token.replace("-", "").replace("_", "").isalnum()
    ):
        raise UserError(f"{TOKEN}: expected at least {SHORTEST_TOKEN} letters, digits, - and _")
    return token


def invitation(host: str, port: int, token: str) -> list[str]:
    """Return the lines that say how to open the page, from here and from another machine."""
    own = f"[{host}]" if ":" in host else host
    query = f"?token={token}" if token else ""
    lines = [f"serve: http://{HERE if host in ANY else own}:{port}/{query}"]
    if not token:
        name = f"{getpass.getuser()}@{socket.gethostname()}"
        lines.append(f"serve, from another machine: ssh -L {port}:{HERE}:{port} {name}")
    elif host in ANY:
        lines.append(f"serve, from another machine: http://{socket.gethostname()}:{port}/{query}")
    if token:
        lines.append("note: the connection is not encrypted; who reads it has the token (an ssh tunnel is)")
    return lines


@contextlib.contextmanager
def one_server(folder: Path) -> Iterator[None]:
    """Keep a second server from the same jobs. Raises ``UserError`` where one is there."""
    with files.writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with files.locked(folder / ".serve.lock", PATIENCE):
        yield


def devices(args: argparse.Namespace) -> list[str]:
    """Return a device for each job that runs at the same time."""
    import torch

    from usd.batch.launchers import cards

    gpus = args.gpus if args.gpus is not None else float(torch.cuda.is_available())
    found = cards(gpus) or ["cpu"]
    return [found[index % len(found)] for index in range(args.jobs)]


def serve(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C. Raises ``UserError``."""
    if args.blender_addon is not None:
        say(f"add-on: {short_path(write_addon(args.blender_addon))}")
        return
    check_options(args)
    for package in ("fastapi", "uvicorn", "python_multipart"):
        if importlib.util.find_spec(package) is None:
            raise UserError(f"serve: the package {package} is not installed; pip install 'usd[serve]'")
    import uvicorn

    from usd.serve.access import is_loopback
    from usd.serve.job_queue import JobQueue
    from usd.serve.jobs import JobStore
    from usd.serve.service import make_service

    token = "" if is_loopback(args.host) else new_token()
    folder = output(args.out)
    with one_server(folder), contextlib.closing(listen(args.host, args.port)) as listener:
        jobs = JobQueue(JobStore(folder), devices(args), args.threads)
        service = make_service(jobs, token, args.host, args.largest)
        server = uvicorn.Server(uvicorn.Config(service, log_level="warning", timeout_graceful_shutdown=3))
        for line in [*invitation(args.host, listener.getsockname()[1], token), f"jobs: {folder}"]:
            say(line)
        try:
            server.run(sockets=[listener])
        finally:
            say("saving what runs; the same command goes on from there")
            jobs.close()


def main(argv: list[str] | None = None) -> int:
    """Run ``usd serve``; return the exit code."""
    return process.run_command(lambda: serve(serve_parser().parse_args(argv)))
