"""Runs wsgiref or waitress on a socket that listens already; they have no command that would."""

import importlib
import socket
import socketserver
import sys
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import waitress


class Threading(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


def main(kind: str, fileno: str, app: str, threads: str) -> None:
    module, _, name = app.partition(":")
    application = getattr(importlib.import_module(module), name)
    listening = socket.socket(fileno=int(fileno))
    if kind == "waitress":
        waitress.serve(application, sockets=[listening], threads=int(threads))
        return
    server = Threading(listening.getsockname(), Quiet, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_name, server.server_port = "localhost", listening.getsockname()[1]
    server.setup_environ()
    server.set_app(application)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
