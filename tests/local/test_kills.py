"""kill -9 at any moment: what the server has said yes to is never lost, and every job comes to its end."""

import contextlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import openai
import psutil
import pytest

from tests.local.test_server import BASE, ROWS, TRAINING, wait_for

KILLS = 20
ROOT = Path(__file__).resolve().parents[2]


class Killable:
    """A server process with a client."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        command = [sys.executable, "-m", "tests.local.fake_server", str(workspace)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        port = int(self.process.stdout.readline())
        self.client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="local", max_retries=0, timeout=30)

    def kill(self, trainer_too: bool) -> None:
        """SIGKILL, also to the training under way where that is asked for."""
        self.process.kill()
        if trainer_too:
            for process in psutil.process_iter(["cmdline"]):
                command = process.info["cmdline"] or []
                if TRAINING[-1] in command and command[-1].startswith(str(self.workspace)):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
        self.process.communicate()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_nothing_is_lost_and_every_job_ends_however_often_the_server_is_killed(tmp_path):
    dice = random.Random(7)
    promised: dict[str, bytes] = {}
    jobs: list[str] = []
    trouble: list[Exception] = []

    def use(client: openai.OpenAI) -> None:
        """Send files and start jobs until the server is gone."""
        try:
            while True:
                content = ROWS + b"\n" * (1 + len(promised) % 5)
                file = client.files.create(file=("train.jsonl", content), purpose="fine-tune").id
                promised[file] = content
                if len(jobs) < KILLS:
                    jobs.append(client.fine_tuning.jobs.create(model=BASE, training_file=file).id)
        except openai.APIConnectionError:
            return
        except Exception as error:
            trouble.append(error)

    for _ in range(KILLS):
        server = Killable(tmp_path)
        user = threading.Thread(target=use, args=(server.client,))
        user.start()
        time.sleep(dice.uniform(0, 0.6))
        server.kill(trainer_too=dice.random() < 0.5)
        user.join(30)
        server.client.close()  # not before: who still uses it would find it closed, not the server gone

    assert not trouble
    server = Killable(tmp_path)
    try:
        for file, content in promised.items():
            assert server.client.files.content(file).read() == content
        listed = {job.id for job in server.client.fine_tuning.jobs.list(limit=100)}
        assert set(jobs) <= listed and len(jobs) > 5
        models = set()
        for job in jobs:
            done = wait_for(
                lambda job=job: (now := server.client.fine_tuning.jobs.retrieve(job)).finished_at and now, 60
            )
            assert done.status == "succeeded", done.error
            models.add(done.fine_tuned_model)
        assert models <= {model.id for model in server.client.models.list()}
    finally:
        server.kill(trainer_too=True)
        server.client.close()
