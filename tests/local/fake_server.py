"""The local server with nothing but its engine and its training faked, as a process: for those who kill it."""

import sys
from pathlib import Path

import uvicorn

from drone_ft.local.server import create_app
from tests.local.test_server import TRAINING, FakeEngine


class Told(uvicorn.Server):
    """Says its port once it answers."""

    async def startup(self, sockets=None):
        await super().startup(sockets)
        print(self.servers[0].sockets[0].getsockname()[1], flush=True)


workspace = Path(sys.argv[1])
app = create_app(FakeEngine(workspace / "engine" / "models"), workspace, command=TRAINING, grace=1.0)
Told(uvicorn.Config(app, port=0, log_level="error")).run()
