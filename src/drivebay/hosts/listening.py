"""The sockets that servers listen on: made at a path or a port, or inherited."""

from __future__ import annotations

import errno
import os
import socket
import stat

__all__ = ["ServerError", "inherited_sockets", "listen", "listen_tcp"]


class ServerError(Exception):
    """A socket that cannot be served: what, and a hint."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def listen(path: str, option: str = "socket=PATH") -> socket.socket:
    """A listening socket at `path`, mode 0600; a stale one is replaced. `option` is how a person
    said where. Raises `ServerError`.
    """
    _clear_stale(path, option)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    mask = os.umask(0o177)  # the socket must never be there with another mode, not for a moment
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise ServerError(*_why_not(path, error, option)) from None
    finally:
        os.umask(mask)
    listener.listen()
    return listener


def _clear_stale(path: str, option: str) -> None:
    """Remove a socket that nobody listens on any more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ServerError(
                f"socket {path}: there is a file of that name that is not a socket",
                f"choose another name with {option}",
            )
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass
    raise ServerError(
        f"socket {path}: another server is listening there",
        f"stop it, or choose another name with {option}",
    )


def _why_not(path: str, error: OSError, option: str) -> tuple[str, str]:
    folder = os.path.dirname(path) or "."
    if error.errno == errno.ENOENT:
        return f"socket {path}: there is no folder {folder}", f"mkdir -p {folder}"
    if "too long" in str(error):
        return f"socket {path}: the path is too long", "UNIX sockets take 107 bytes"
    return f"socket {path}: {error.strerror}", f"choose a place you may write to with {option}"


def listen_tcp(bind: str, port: int, option: str) -> socket.socket:
    """A listening socket at a port of the address `bind`. `option` is how a person said where.
    Raises `ServerError`.
    """
    try:
        family = socket.getaddrinfo(bind, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((bind, port), family=family)
    except socket.gaierror as error:
        why = error.strerror
    except OSError as error:  # whose own text says the address again
        why = os.strerror(error.errno) if error.errno else str(error)
    raise ServerError(f"{bind} port {port}: {why}", f"choose another with {option}")


def inherited_sockets() -> list[socket.socket]:
    """The listening sockets that systemd, or whoever speaks its protocol, has handed us.

    Raises `ServerError` if it has not.
    """
    count = os.environ.get("LISTEN_FDS", "0")
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # they are not for our children
    try:
        listeners = [socket.socket(fileno=3 + n) for n in range(int(count))]
    except (OSError, ValueError):
        raise ServerError(
            f"LISTEN_FDS={count}: there are no such sockets",
            "whoever starts us by socket activation must pass them from descriptor 3 on",
        ) from None
    for listener in listeners:
        listener.set_inheritable(False)
    return listeners
