"""Calls of an object's methods over a socket, for trials on networks that are trusted.

A call is a pickled (name, arguments), an answer a pickled (error or None, result). What is read may be made of plain Python values and
numpy arrays only, so that a message cannot name code to run.
"""

from __future__ import annotations

import importlib
import logging
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

LOG = logging.getLogger(__name__)
PORT = 12032

# What an array's pickle names, in numpy 1 and 2.
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
}


class RestrictedUnpickler(pickle.Unpickler):
    """Reads plain values and arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} must not be in a message")
        try:
            return getattr(importlib.import_module(module), name)
        except ImportError:  # the other numpy's name
            return getattr(importlib.import_module(module.replace("numpy.core", "numpy._core")), name)


class ClientExit(Exception):
    """The client has gone."""


class ServerException(Exception):
    """What went wrong in a call, as text from the server."""


class FileSock:
    """A socket as the file that pickle reads and writes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._file = sock.makefile("rb")

    def write(self, buf: bytes) -> None:
        self.sock.sendall(buf)

    def read(self, bs: int = 1 << 19) -> bytes:
        return self._file.read(bs)

    def readline(self) -> bytes:
        return self._file.readline()


class Server:
    """Answers calls of its own methods on one connection."""

    def __init__(self, s: socket.socket, logf: Any = sys.stderr, log_prefix: str = "") -> None:
        self.logf, self.log_prefix = logf, log_prefix
        self.conn = s
        self.fs = FileSock(s)

    def log(self, s: Any) -> None:
        """Write a line of the log."""
        self.logf.write(f"Server log {self.log_prefix}: {s}\n")

    def one_function(self) -> None:
        """Read a call, make it, and send the answer."""
        try:
            name, arguments = RestrictedUnpickler(self.fs).load()
        except EOFError:
            raise ClientExit("read args") from None
        error, result = None, None
        try:
            if name.startswith("_"):
                raise AttributeError(f"unknown method {name}")
            result = getattr(self, name)(*arguments)
        except Exception as e:  # whatever it is, the client shall hear of it
            error = "".join(traceback.format_tb(sys.exc_info()[2])) + str(e)
            self.log(f"exception in {name}: {e}")
        pickle.dump((error, result), self.fs, protocol=4)

    def exec_loop(self) -> None:
        """Answer until the client goes."""
        try:
            while True:
                self.one_function()
        except (ClientExit, OSError, EOFError, pickle.UnpicklingError) as e:
            self.log(f"{type(e).__name__} {e}")
        finally:
            self.conn.close()
            self.exec_loop_cleanup()

    def exec_loop_cleanup(self) -> None:
        """What a subclass does when the client has gone."""


class Client:
    """A server's methods as its own; their exceptions come as ServerException."""

    def __init__(self, HOST: str, port: int = PORT, v6: bool = False) -> None:
        self.sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM)
        self.sock.connect((HOST, port))
        self.fs = FileSock(self.sock)

    def generic_fun(self, fname: str, args: tuple[Any, ...]) -> Any:
        """Call a method by name."""
        pickle.dump((fname, args), self.fs, protocol=4)
        return self.get_result()

    def get_result(self) -> Any:
        """The answer to the last call."""
        error, result = RestrictedUnpickler(self.fs).load()
        if error is not None:
            raise ServerException(error)
        return result

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *args: self.generic_fun(name, args)


def run_server(
    new_handler: Callable[[socket.socket], Server], port: int = PORT, report_to_file: str | None = None, v6: bool = False
) -> None:
    """Accept connections for ever, each with a handler of its own on a thread of its own."""
    with socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM) as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(("", port))
        s.listen(5)
        if report_to_file is not None:
            with open(report_to_file, "w", encoding="utf-8") as file:
                file.write(f"{socket.gethostname()}:{port} ")
        while True:
            connection, address = s.accept()
            LOG.info("connected to %s", address)
            threading.Thread(target=new_handler(connection).exec_loop, daemon=True).start()


__all__ = ["PORT", "Client", "ClientExit", "FileSock", "RestrictedUnpickler", "Server", "ServerException", "run_server"]
