"""A client of ``usd serve`` with Python's standard library alone: what the Blender add-on asks the server."""

import json
import secrets
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 20.0
"""Seconds to wait for an answer."""
ENDED = ("done", "failed", "cancelled", "paused")


class JobError(Exception):
    """One line on what went wrong, to be shown to the user."""


@dataclass(frozen=True)
class Progress:
    """A job's state, in one line for the panel; ``mesh`` is the file to import, empty until there is one."""

    state: str
    text: str
    mesh: str

    @property
    def has_ended(self) -> bool:
        """Return whether there is nothing more to wait for."""
        return self.state in ENDED


class JobClient:
    """The jobs of a server at ``address``, http://127.0.0.1:7008; ``token`` where it asks for one."""

    def __init__(self, address: str, token: str = "") -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise JobError(f"{address}: expected an address such as http://127.0.0.1:7008")
        asked = urllib.parse.parse_qs(parts.query).get("token", [""])[0]
        self.address, self.token = f"{parts.scheme}://{parts.netloc}", token or asked

    def submit(
        self,
        sentence: str = "",
        picture: "Path | None" = None,
        mesh: "Path | None" = None,
        recipe: str = "",
        overrides: str = "",
    ) -> str:
        """Submit a job and return its name. Raises ``JobError``."""
        fields = [
            ("sentence", sentence),
            ("recipe", recipe),
            *(("overrides", one) for one in overrides.split()),
        ]
        sent = {name: path for name, path in (("picture", picture), ("mesh", mesh)) if path is not None}
        try:
            contents = {name: (path.name, path.read_bytes()) for name, path in sent.items()}
        except OSError as error:
            raise JobError(f"{error.filename}: cannot be read ({error.strerror})") from error
        kind, body = form_body([(key, value) for key, value in fields if value], contents)
        return str(self._object("", body, kind)["id"])

    def progress(self, job: str) -> Progress:
        """Ask how far a job is. Raises ``JobError``."""
        told = self._object(f"/{address_part(job)}")
        state, steps = str(told["state"]), told.get("progress")
        text = (
            f"{steps['stage']}, step {steps['step']} of {steps['steps']}" if isinstance(steps, dict) else ""
        )
        mesh = self._mesh(job) if state == "done" else ""
        return Progress(state, str(told.get("error") or text), mesh)

    def _mesh(self, job: str) -> str:
        """Return the name of the last .glb that a job made, which is its last stage's; empty where there is none."""
        listed = self._json(f"/{address_part(job)}/files")
        names = [str(one["path"]) for one in listed] if isinstance(listed, list) else []
        return next((name for name in reversed(names) if name.endswith(".glb") and "/" in name), "")

    def download(self, job: str, name: str, path: Path) -> Path:
        """Write a file that a job made to ``path``, and return it. Raises ``JobError``."""
        path.write_bytes(self._bytes(f"/{address_part(job)}/files/{urllib.parse.quote(name)}"))
        return path

    def order(self, job: str, what: str) -> None:
        """Pause, resume or cancel a job. Raises ``JobError``."""
        self._object(f"/{address_part(job)}/{what}", b"")

    def _json(self, path: str, body: "bytes | None" = None, kind: str = "") -> object:
        try:
            told: object = json.loads(self._bytes(path, body, kind))
        except ValueError as error:
            raise JobError(f"{self.address}: is no usd server") from error
        return told

    def _object(self, path: str, body: "bytes | None" = None, kind: str = "") -> "dict[str, object]":
        told = self._json(path, body, kind)
        if not isinstance(told, dict):
            raise JobError(f"{self.address}: is no usd server")
        return told

    def _bytes(self, path: str, body: "bytes | None" = None, kind: str = "") -> bytes:
        headers = {"Content-Type": kind} if kind else {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        request = urllib.request.Request(f"{self.address}/api/jobs{path}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise JobError(_detail(error)) from error
        except OSError as error:
            raise JobError(f"{self.address}: does not answer; is `usd serve` running?") from error


def address_part(name: str) -> str:
    """Return a name as one part of an address."""
    return urllib.parse.quote(name, safe="")


def _detail(error: urllib.error.HTTPError) -> str:
    """Return the server's own line on why it refused."""
    try:
        return str(json.loads(error.read())["detail"])
    except (ValueError, KeyError, TypeError, OSError):
        return f"refused ({error.code})"


def form_body(fields: "list[tuple[str, str]]", files: "dict[str, tuple[str, bytes]]") -> "tuple[str, bytes]":
    """Return the content type and the body of a form with files (multipart/form-data, RFC 7578)."""
    boundary = f"usd-{secrets.token_hex(16)}"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    for name, (file, content) in files.items():
        plain = file.replace("\\", "_").replace('"', "%22").replace("\r", "").replace("\n", "")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{plain}"\r\n'
        parts.append(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + content + b"\r\n")
    return f"multipart/form-data; boundary={boundary}", b"".join([*parts, f"--{boundary}--\r\n".encode()])
