"""Stands in for the training process: same files, same exit codes, no model. The job's suffix says how it goes."""

import json
import os
import signal
import sys
import time
from pathlib import Path

folder = Path(sys.argv[-1])
order = json.loads((folder / "job.json").read_text())
way = order["suffix"]


def tell(message, **data):
    """Appends one event, as training does."""
    kind = "metrics" if data else "message"
    event = {"created_at": int(time.time()), "level": "info", "type": kind, "message": message, "data": data}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")


def leave(*_):
    """SIGTERM: the job was cancelled."""
    with (folder / "stopped").open("a") as file:
        file.write(f"{os.getpid()}\n")
    sys.exit(3)


signal.signal(signal.SIGTERM, leave)
with (folder / "runs").open("a") as file:
    file.write(f"{os.getpid()} {os.getpriority(os.PRIO_PROCESS, 0)}\n")
if way == "refused":
    (folder / "error.json").write_text('{"code": "invalid_training_file", "message": "Line 3: too long."}')
    sys.exit(1)
if way == "silent":
    sys.exit(1)
if way == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if way == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for epoch in (1, 2):
    loss = 1.0 / epoch
    tell(
        f"Step {epoch}/2: training loss={loss}",
        step=epoch,
        total_steps=2,
        train_loss=loss,
        epoch=epoch,
        seconds_left=60,
    )
    checkpoint = folder / "checkpoints" / f"epoch-{epoch}"
    checkpoint.mkdir(parents=True, exist_ok=True)
    settings = {"id": f"{order['output_model']}:ckpt-step-{epoch}", "metrics": {"step": epoch, "train_loss": loss}}
    (checkpoint / "settings.json").write_text(json.dumps(settings))
    (checkpoint / "progress.json").write_text(json.dumps({"step": epoch}))
    if way in ("slow", "stubborn"):
        while not (folder / "go").exists():
            time.sleep(0.05)
(folder / "result.csv").write_text("step,train_loss\n1,1.0\n2,0.5\n")
output = Path(order["output_dir"])
used = {"n_epochs": 2, "batch_size": 1, "learning_rate_multiplier": 1.0}
made = folder / f"made-{os.getpid()}"
made.mkdir()
(made / "settings.json").write_text(json.dumps({"id": order["output_model"], "hyperparameters": used}))
output.parent.mkdir(parents=True, exist_ok=True)
if not output.exists():
    made.rename(output)
