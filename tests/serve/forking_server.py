"""A server of which each start is a fork: python forking_server.py HOME RUN DATA.

For every line on stdin a child serves until it is killed. It says its process and its port; after
its death the parent says "dead". What takes seconds, the model, is loaded once before.
"""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import uvicorn

from pmm.recommend.answers import NewItem
from pmm.serve.item_search import ItemSearch
from pmm.serve.load_served import ServedModel, open_served
from pmm.serve.serving import Serving
from pmm.serve.web.access import AccessRules
from pmm.serve.web.http_server import PatientProtocol
from pmm.serve.web.web_app import make_app
from pmm.storage.home import Home


def main() -> None:
    home, run, data = Home(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
    opened = open_served(run, home, device="cpu")
    opened.model.encode_items([NewItem(item_id="first", text="loads the tokenizer, once for all")])

    def load(place: Path) -> ServedModel:
        served = replace(opened, place=place, search=ItemSearch())
        served.fill_search()
        return served

    def serve() -> None:
        serving = Serving(data, load)
        listening = socket.create_server(("127.0.0.1", 0))
        app = make_app(serving, AccessRules())
        server = uvicorn.Server(
            uvicorn.Config(app, http=PatientProtocol, ws="none", log_config=None, lifespan="on")
        )
        serving.start(run)
        print(os.getpid(), listening.getsockname()[1], flush=True)
        server.run(sockets=[listening])

    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                serve()
            finally:
                os._exit(1)
        os.waitpid(child, 0)
        print("dead", flush=True)


if __name__ == "__main__":
    main()
