"""With this folder on PYTHONPATH, as `make test` puts it, no Python process reaches beyond its own machine.

Pytest, every notebook's kernel, every program that those start: each import of `site` runs this file, and an audit
hook cannot be taken off again. What it does not see is native code that opens sockets past Python's `socket`.
"""

import sys

WATCHED = ("socket.connect", "socket.bind", "socket.sendto")
HERE = ("localhost", "::1", "0:0:0:0:0:0:0:1")


def refuse(event: str, arguments: tuple) -> None:
    if event in WATCHED and isinstance(arguments[1], tuple):  # a path of a Unix socket is a string
        host = str(arguments[1][0])
        if host not in HERE and not host.startswith("127."):
            raise RuntimeError(f"offline: {event} beyond this machine, to {host!r}")


sys.addaudithook(refuse)
