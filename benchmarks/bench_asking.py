"""What asking a hosted model costs: commands a minute beside a one-by-one loop, own work a call, memory over many.

The server is tests/scripted.py in a process of its own, with 300 ms of latency and room for 64 at once, so the figures
speak of this program alone: `python -m benchmarks.bench_asking`. The table is the second one of RESULTS.md.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import psutil

from benchmarks.bench import ROOT, Figure
from drone_ft import asking, endpoints
from drone_ft.asking import Ask
from drone_ft.pacing import Gate
from drone_ft.store import Store
from drone_ft.synthesis import by_model

LATENCY, ROOM = 0.3, 64
MODEL = "gpt-4.1-mini"
COMMANDS = 2  # a call, as in the cookbook
ONE_BY_ONE = 20  # calls the loop is timed over
WARM = 500  # calls after which memory is looked at first
HEAD = "\n# What asking a hosted model costs\n"


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    lines = [f"| {one.name} | {one.value} | {one.aim} |\n" for one in figures(parser.parse_args().calls)]
    about = f"`python -m benchmarks.bench_asking` on {time.strftime('%Y-%m-%d')}, {LATENCY * 1000:.0f} ms of latency."
    text = f"{HEAD}\n{about}\n\n| | measured | aim |\n|---|---|---|\n{''.join(lines)}"
    page = ROOT / "benchmarks" / "RESULTS.md"
    page.write_text(page.read_text("utf-8").split(HEAD)[0] + text, "utf-8")
    print(text)


def figures(calls: int = 5000) -> Iterator[Figure]:
    """The loop, then the same requests many at once."""
    with server() as url, tempfile.TemporaryDirectory() as folder:
        client = openai.OpenAI(base_url=url, api_key="bench", http_client=openai.DefaultHttpxClient(trust_env=False))
        start = time.perf_counter()
        for ask in asks(url, ONE_BY_ONE, "loop"):
            client.chat.completions.create(model=ask.model, **ask.request)
        loop = ONE_BY_ONE / (time.perf_counter() - start)
        yield Figure("one-by-one loop", f"{loop * COMMANDS * 60:,.0f} commands a minute")
        yield from at_once(url, Path(folder), calls, loop)


def at_once(url: str, folder: Path, calls: int, loop: float) -> Iterator[Figure]:
    """All of it with every answer written to a database."""
    me, gate = psutil.Process(), Gate(ROOM)
    endpoint = endpoints.Endpoint("bench", url, "custom")
    send = asking.sender(endpoints.client(endpoint, listen=gate.hear), store := Store(folder))
    done, first, most = 0, 0, 0
    spent, start = sum(me.cpu_times()[:2]), time.perf_counter()
    for reply in asking.ask_all(asks(url, calls, "many"), send, store, gate=gate):
        if reply.answer is None:
            raise SystemExit(f"A request was not answered: {reply.reason}")
        done += 1
        if done == min(WARM, calls // 2):
            first = me.memory_info().rss
        if done % 100 == 0:
            most = max(most, me.memory_info().rss)
    seconds, spent = time.perf_counter() - start, sum(me.cpu_times()[:2]) - spent
    rate = done / seconds
    yield Figure(f"{done:,} calls, {ROOM} at once", f"{rate * COMMANDS * 60:,.0f} commands a minute")
    yield Figure("of the loop's", f"{rate / loop:.1f} times", "≥ 40 times")
    yield Figure("own work", f"{spent / done * 1000:.2f} ms a call", "< 5 ms a call")
    gained = f"{(most - first) / 1e6:.1f} MB on {first / 1e6:.0f} MB"
    yield Figure(f"memory gained after the first {min(WARM, calls // 2)}", gained, "≤ 20 MB, the caches")


def asks(url: str, count: int, name: str) -> Iterator[Ask]:
    """Different requests of the size real ones have."""
    schema = {"type": "array", "items": {"type": "string"}, "minItems": COMMANDS, "maxItems": COMMANDS}
    shape = {"type": "object", "properties": {"commands": schema}, "required": ["commands"]}
    for number in range(count):
        told = f"{name} {number}: " + "the function and its call, with all that belongs to them. " * 12
        messages = [{"role": "system", "content": by_model.COMMANDS}, {"role": "user", "content": told}]
        form = {"type": "json_schema", "json_schema": {"name": "commands", "schema": shape, "strict": True}}
        yield Ask(url, MODEL, {"messages": messages, "response_format": form})


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The scripted server's base URL."""
    command = [sys.executable, "-m", "tests.scripted", "--latency", str(LATENCY), "--at-once", str(ROOM)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        yield child.stdout.readline().strip()
    finally:
        child.terminate()
        child.wait()


if __name__ == "__main__":
    main()
