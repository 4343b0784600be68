"""With this folder on PYTHONPATH, as `make test` puts it, no Python process reaches beyond its own machine.

Pytest, every notebook's kernel, every program that those start: each import of `site` runs this file, and an audit
hook cannot be taken off again. What it does not see is native code that opens sockets past Python's `socket`.
It must parse under old Pythons, to which tests/test_setup.py shows the bootstrap: ASCII only, no annotations.
"""

import sys

WATCHED = ("socket.connect", "socket.bind", "socket.sendto")
HERE = ("localhost", "::1", "0:0:0:0:0:0:0:1")


def refuse(event, arguments):
    if event in WATCHED and isinstance(arguments[1], tuple):  # a path of a Unix socket is a string
        host = str(arguments[1][0])
        if host not in HERE and not host.startswith("127."):
            raise RuntimeError("offline: %s beyond this machine, to %r" % (event, host))


if hasattr(sys, "addaudithook"):
    sys.addaudithook(refuse)
