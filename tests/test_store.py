"""What is saved stays saved: catalogs, examples with undo, jobs, reports, runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from drone_ft import asking, dataset
from drone_ft.batches import Open
from drone_ft.catalog import Call, default_catalog
from drone_ft.dataset import make_example
from drone_ft.endpoints import Endpoint
from drone_ft.errors import StoreError
from drone_ft.evaluation import Answer, Case, Report
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from drone_ft.work import Run, Step

UP = Call("takeoff_drone", {"altitude": 50})
PAID = asking.Answer("k1", "http://a/v1", "m", "write", {"choices": [{"message": {"content": "é"}}]}, 10, 2, 5)
THREE = [make_example(f"up {word}", UP) for word in ("please", "now", "there")]


TOLD = [
    {"id": "e1", "created": 1, "type": "message", "message": "Job started", "data": None},
    {"id": "e2", "created": 2, "type": "metrics", "message": "Step 1", "data": {"step": 1, "valid_loss": 0.6}},
    {"id": "e3", "created": 3, "type": "metrics", "message": "Step 2", "data": {"step": 2, "train_loss": 0.3}},
]
# As the first version wrote a job, with its events beside; written out, as today's Job differs.
OLD_BODY = {
    "id": "j", "endpoint": "e", "endpoint_job_id": "ftjob-1", "model": "m", "suffix": "s", "epochs": 3,
    "status": "running", "created": 1.0, "tuned_model": None, "message": "", "finished": None, "seconds_left": None,
}  # fmt: skip
# What the migrations after the first one made.
NEW_TABLES = ("job_events", "job_data", "answers", "endpoints", "abilities", "batches")


def make_first_version(folder: Path, events: list[dict[str, Any]] = TOLD) -> None:
    """Turn a fresh store back into one of the first version, with a job."""
    with sqlite3.connect(folder / "drone_ft.db") as database:
        for table in NEW_TABLES:
            database.execute(f"DROP TABLE {table}")
        database.execute("UPDATE alembic_version SET version_num = '0001'")
        body = json.dumps({**OLD_BODY, "events": events})
        database.execute("INSERT INTO jobs VALUES ('j', 1.0, ?, 'train\n', '')", [body])


def test_a_fresh_store_has_the_default_catalog_and_nothing_else() -> None:
    store = Store()
    assert store.catalog() == default_catalog()
    assert (store.examples(), store.jobs(), store.reports(), store.runs()) == ([], [], [], [])


def test_everything_comes_back_from_another_process_eyes() -> None:
    store, catalog = Store(), dataclasses.replace(default_catalog(), name="mine", system_prompt="Fly.")
    store.set_catalog(catalog)
    store.replace_examples(THREE)
    job = Job(
        "j", "this computer", "ftjob-1", "base", "s", 3, "running", 1.0, events=[{"id": "e", "data": {"step": 1}}]
    )
    store.save_job(job, "train", "valid")
    report = Report(
        "r",
        "cases",
        None,
        [Case("x", UP, {"altitude": [51]})],
        {
            "m": [
                Answer("x", UP),
            ]
        },
        {"m": 1.5},
        2.0,
    )
    store.save_report(report)
    run = Run(
        "run", "demo", "done", {"epochs": 1}, (Step("a", "A", "done", 1, 2, 3.0, "n"),), result={"x": 1}, created=1.0
    )
    store.save_run(run)
    again = Store()
    assert again.catalog() == catalog and again.examples() == THREE
    assert (
        again.jobs() == [dataclasses.replace(job, events=[])]
        and again.job("j") == job
        and again.job_data("j") == ("train", "valid")
    )
    assert again.reports() == [report] and again.latest_report() == report and again.report("r") == report
    assert again.runs() == [run] and again.latest_run("demo") == run and again.latest_run("tune") is None


def test_a_jobs_events_are_added_and_none_is_lost_when_it_is_saved_without_them() -> None:
    store, events = Store(), [{"id": str(n), "data": {"step": n}} for n in range(3)]
    job = Job("j", "this computer", "ftjob-1", "base", "s", 3, "running", 1.0, events=events[:1])
    store.save_job(job)
    store.save_job(dataclasses.replace(job, events=events))
    store.save_job(dataclasses.replace(store.jobs()[0], status="failed"))
    assert store.job("j") == dataclasses.replace(job, status="failed", events=events)


def test_a_job_that_changes_does_not_write_its_data_again(tmp_path: Path) -> None:
    store, numbers = Store(tmp_path), random.Random(1)
    data = "".join(f'{{"noise": {numbers.random()}}}\n' for _ in range(20_000))
    job = Job("j", "this computer", "ftjob-1", "base", "s", 3, "running", 1.0)
    store.save_job(job, data, data)
    written = tmp_path / "drone_ft.db-wal"
    before = written.stat().st_size
    for step in range(20):
        store.save_job(dataclasses.replace(job, message=f"Step {step}"))
    assert written.stat().st_size - before < 20 * 20_000 and store.job_data("j") == (data, data)


def test_a_database_of_the_first_version_keeps_its_jobs_and_their_events(tmp_path: Path) -> None:
    Store(tmp_path)
    make_first_version(tmp_path)
    store = Store(tmp_path)
    job = store.job("j")
    assert job and job.events == TOLD and (job.last_loss, job.examples) == (0.6, 1)
    assert store.job_data("j") == ("train\n", "")
    assert store.jobs() == [dataclasses.replace(job, events=[])]


@pytest.mark.parametrize(
    ("data", "loss"),
    [([], None), ([None, {"step": 1, "train_loss": 0.9}, {"step": 2, "train_loss": 0.5}, {"step": 3}], 0.5)],
)
def test_a_moved_job_has_the_loss_its_events_tell(data: list[Any], loss: float | None, tmp_path: Path) -> None:
    Store(tmp_path)
    make_first_version(tmp_path, [{"id": f"e{n}", "data": row} for n, row in enumerate(data)])
    assert [job.last_loss for job in Store(tmp_path).jobs()] == [loss]


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a Unix matter")
@pytest.mark.parametrize("version", ["none", "first"])
def test_a_migration_killed_in_the_middle_is_done_again_whole(version: str, tmp_path: Path) -> None:
    if version == "first":
        Store(tmp_path)
        make_first_version(tmp_path)
    # The version number is written last: everything before it has been done by then.
    script = (
        "import os, signal, sys\n"
        "import sqlalchemy as sa\n"
        "from drone_ft.store import Store\n"
        "def stop(connection, cursor, statement, *rest):\n"
        "    if statement.startswith(('INSERT INTO alembic_version', 'UPDATE alembic_version')):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "sa.event.listen(sa.Engine, 'before_cursor_execute', stop)\n"
        "Store(sys.argv[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path)]).returncode == -9
    with sqlite3.connect(tmp_path / "drone_ft.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    assert not {*NEW_TABLES} & tables and ("jobs" in tables) == (version == "first"), "nothing half done"
    job = Store(tmp_path).job("j")
    assert (job.events if job else None) == (TOLD if version == "first" else None)
    assert Store(tmp_path).job_data("j") == (("train\n", "") if version == "first" else ("", ""))


@pytest.mark.parametrize("version", ["0001", "0003", "0004"])
def test_an_older_database_gets_room_for_answers_endpoints_and_batches(version: str, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.replace_examples(THREE)
    if version == "0001":
        make_first_version(tmp_path)
    else:
        with sqlite3.connect(tmp_path / "drone_ft.db") as database:
            for table in NEW_TABLES[2 if version == "0003" else 5 :]:
                database.execute(f"DROP TABLE {table}")
            database.execute("UPDATE alembic_version SET version_num = ?", [version])
    store = Store(tmp_path)
    store.keep_answers([PAID])
    assert store.examples() == THREE and store.answer("k1") == PAID and store.endpoints() == []
    store.save_batch(Open("t", "http://a/v1", "m", "write", ("k1",), "file-1"))
    assert [entry.file for entry in store.batches("http://a/v1")] == ["file-1"]


def test_a_paid_answer_comes_back_and_the_first_of_a_key_stays() -> None:
    store, other = Store(), dataclasses.replace(PAID, key="k2", by_batch=True)
    store.keep_answers([PAID])
    store.keep_answers([dataclasses.replace(PAID, body={"choices": []}), other])
    again = Store()
    assert (again.answer("k1"), again.answer("k2"), again.answer("k3")) == (PAID, other, None)
    store.keep_answers([])


def test_two_stores_may_keep_the_same_answer_at_once() -> None:
    mine, others = Store(), Store()
    first, second = PAID, dataclasses.replace(PAID, body={"choices": []})

    def between(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("INSERT INTO answers"):  # mine is about to be written
            others.keep_answers([first])

    sa.event.listen(mine._engine, "before_cursor_execute", between)
    mine.keep_answers([second, dataclasses.replace(PAID, key="k2")])
    assert mine.answer("k1") == first and mine.answer("k2")


def test_a_server_database_is_told_the_same_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    engine = sa.create_mock_engine("postgresql://", lambda clause, *rest: told.append(str(clause.compile(engine))))
    store = Store()
    monkeypatch.setattr(store, "_transaction", lambda: contextlib.nullcontext(engine))
    store.keep_answers([PAID])
    assert told[0].startswith("INSERT INTO answers") and told[0].endswith("ON CONFLICT (key) DO NOTHING")


def test_open_batches_come_back_by_place_whatever_their_model_until_they_are_removed() -> None:
    store = Store()
    old, new = (Open(f"t{n}", "http://a/v1", f"m{n}", "write", ("k1", "k2"), "f", created=float(n)) for n in (1, 2))
    for batch in (new, old, dataclasses.replace(old, id="batch_1")):
        store.save_batch(batch)
    assert Store().batches("http://a/v1") == [dataclasses.replace(old, id="batch_1"), new]
    store.remove_batch("t1")
    assert store.batches("http://a/v1") == [new] and store.batches("http://b/v1") == []


def test_answers_are_kept_all_or_none() -> None:
    store = Store()
    with pytest.raises(StoreError, match="Nothing saved before was changed"):
        store.keep_answers([PAID, dataclasses.replace(PAID, key="k2", model=None)])  # type: ignore[arg-type]
    assert store.answer("k1") is None


def test_endpoints_come_back_in_order_replaced_by_name_and_have_no_column_for_a_key() -> None:
    store = Store()
    for name, url in (("vllm", "http://a/v1"), ("azure", "http://b/v1"), ("vllm", "http://c/v1")):
        store.save_endpoint(Endpoint(name, url, "custom"))
    assert Store().endpoints() == [
        Endpoint("azure", "http://b/v1", "custom"),
        Endpoint("vllm", "http://c/v1", "custom"),
    ]
    store.remove_endpoint("azure")
    assert [endpoint.name for endpoint in store.endpoints()] == ["vllm"]
    with sqlite3.connect(store.folder / "drone_ft.db") as database:
        columns = [row[1] for row in database.execute("PRAGMA table_info(endpoints)")]
    assert columns == ["name", "base_url", "kind"]


def test_what_a_model_accepts_is_remembered_for_each_server() -> None:
    store = Store()
    store.put("http://a/v1", "m", {"temperature": "left out"})
    store.put("http://a/v1", "m", {"response_format": "plain"})
    assert Store().get("http://a/v1", "m") == {"response_format": "plain"}
    assert store.get("http://b/v1", "m") == store.get("http://a/v1", "n") == {}


def test_examples_join_the_catalog_they_were_written_for() -> None:
    store = Store()
    store.set_catalog(default_catalog())
    store.set_catalog(dataclasses.replace(default_catalog(), name="other"))
    store.add_examples(THREE, "drone")
    assert store.examples() == [] and store.examples("drone") == THREE


def test_a_job_saved_by_an_older_process_is_still_read() -> None:
    store = Store()
    store.save_job(Job("j", "e", "ftjob-1", "m", "s", 3, "running", 1.0, events=TOLD))
    with sqlite3.connect(store.folder / "drone_ft.db") as database:
        database.execute("UPDATE jobs SET body = ?", [json.dumps({**OLD_BODY, "events": TOLD})])
        database.execute("INSERT INTO jobs VALUES ('k', 2.0, ?, 'train\n', '')", [json.dumps(OLD_BODY)])
    job = store.job("j")
    assert job and job.events == TOLD
    assert store.job_data("k") == ("train\n", "")


def test_removed_examples_come_back_in_their_places() -> None:
    store = Store()
    store.replace_examples(THREE)
    removal = store.remove_examples([THREE[0].id, THREE[2].id])
    assert store.examples() == [THREE[1]] and store.last_removed() == (removal, 2)
    assert store.undo_remove(removal) == 2
    assert store.examples() == THREE and store.last_removed() is None


def test_replacing_all_examples_can_be_undone_too() -> None:
    store, new = Store(), [make_example("new words", UP)]
    store.replace_examples(THREE)
    removal = store.replace_examples(new)
    assert store.examples() == new
    store.undo_remove(removal)
    assert {e.prompt for e in store.examples()} == {"new words", *(e.prompt for e in THREE)}


def test_undo_never_makes_two_of_one() -> None:
    store = Store()
    store.replace_examples(THREE)
    removal = store.replace_examples(THREE)
    assert store.undo_remove(removal) == 0 and store.examples() == THREE
    assert store.last_removed() is None, "an undo that brought nothing back must not be offered for ever"


def test_an_edited_example_keeps_its_place() -> None:
    store = Store()
    store.replace_examples(THREE)
    edited = make_example("up at once", UP)
    store.save_example(edited, old_id=THREE[1].id)
    assert store.examples() == [THREE[0], edited, THREE[2]]


def test_each_catalog_has_its_own_examples_and_a_taken_name_gets_a_number() -> None:
    store, other = Store(), dataclasses.replace(default_catalog(), system_prompt="Other.")
    store.set_catalog(default_catalog())
    store.replace_examples(THREE)
    assert store.set_catalog(other).name == "drone 2"
    assert store.set_catalog(other).name == "drone 2", "loading the same again makes no third"
    assert store.examples() == [] and store.catalogs() == ["drone", "drone 2"]
    store.choose_catalog("drone")
    assert store.examples() == THREE
    with pytest.raises(StoreError, match="drone 2"):
        store.choose_catalog("nobody")


def test_jobs_and_reports_are_narrowed_to_a_catalog_and_to_those_of_no_known_one() -> None:
    store = Store()
    for number, catalog in enumerate(["drone", "", "coffee"]):
        job = Job(f"j{number}", "here", "x", "base", "s", 1, "succeeded", float(number), catalog=catalog)
        store.save_job(job)
        store.save_report(Report(f"r{number}", "cases", None, [], {}, {}, float(number + 1), catalog))
    assert [job.id for job in store.jobs("drone")] == ["j1", "j0"]
    assert [job.id for job in store.jobs()] == ["j2", "j1", "j0"]
    assert [report.id for report in store.reports("coffee")] == ["r2", "r1"]
    last = [store.latest_report(name) for name in ("drone", "coffee", "tea", None)]
    assert [report and report.id for report in last] == ["r1", "r2", "r1", "r2"]


def test_a_run_whose_process_is_gone_has_failed_and_says_so() -> None:
    store = Store()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run = Run("r", "demo", "running", steps=(Step("a", "A", "running"),), created=time.time(), pid=child.pid)
    store.save_run(run)
    assert store.run("r") == run
    child.kill()
    child.wait()
    seen = store.run("r")
    assert seen and seen.status == "failed" and "goes on" in str(seen.error) and seen.steps[0].status == "failed"


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a Unix matter")
def test_a_write_killed_in_the_middle_loses_nothing_saved(tmp_path: Path) -> None:
    store = Store()
    store.replace_examples(THREE)
    script = (
        "from drone_ft.store import Store, examples\n"
        "import os, signal\n"
        "store = Store()\n"
        "with store._transaction() as connection:\n"
        "    store._remove(connection, 'drone', None)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    assert Store().examples() == THREE


def test_two_processes_may_open_a_new_store_at_once(tmp_path: Path) -> None:
    script = "from drone_ft.store import Store; print(len(Store().examples()))"
    both = [subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [child.communicate()[0] for child in both] == ["0\n", "0\n"]


def test_a_disk_that_refuses_is_one_sentence(tmp_path: Path) -> None:
    store = Store()
    store.replace_examples(THREE)
    with pytest.raises(StoreError, match="Nothing saved before was changed"), store._transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
        store._insert(connection, "drone", [make_example("long " * 5000 + str(n), UP) for n in range(40)])
    assert Store().examples() == THREE
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="DRONE_FT_WORKSPACE"):
        Store(tmp_path / "file" / "below")


def test_a_large_dataset_is_saved_and_read_in_order() -> None:
    store = Store()
    rows = dataset.split([make_example(f"request {n:04}", UP, template=f"t{n}") for n in range(1500)])
    store.replace_examples(rows)
    assert store.examples() == rows


def test_a_database_from_a_newer_program_is_refused_and_left_alone() -> None:
    store = Store()
    with sqlite3.connect(store.folder / "drone_ft.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="newer version"):
        Store()
    with sqlite3.connect(store.folder / "drone_ft.db") as database:
        assert database.execute("SELECT version_num FROM alembic_version").fetchone() == ("9999",)
