"""The control socket: JSON-RPC 2.0 on a UNIX socket, a request a line, to look at what is served
and to change it while it runs. `docs/control.md` is the reference.
"""
