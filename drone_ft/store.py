"""The only reader and writer of the database: catalogs, examples, jobs, reports, runs, paid answers, endpoints."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from filelock import FileLock
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from drone_ft import evaluation, fine_tuning, work
from drone_ft.asking import Answer
from drone_ft.batches import Open
from drone_ft.catalog import Call, Catalog, default_catalog, parse_catalog
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint, workspace
from drone_ft.errors import StoreError

NEWEST_MIGRATION = "0005"
metadata = sa.MetaData()
catalogs = sa.Table(
    "catalogs",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("is_current", sa.Boolean, nullable=False),
)
examples = sa.Table(
    "examples",
    metadata,
    sa.Column("row", sa.Integer, primary_key=True),
    sa.Column("catalog", sa.String, nullable=False, index=True),
    sa.Column("id", sa.String, nullable=False, index=True),
    sa.Column("body", sa.JSON, nullable=False),
    # Removing marks a row with the number of the removal, so that it can be undone.
    sa.Column("removal", sa.Integer, nullable=True),
)
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    # Where processes of an older version write the data; else empty.
    sa.Column("train_jsonl", sa.Text, nullable=False, default=""),
    sa.Column("validation_jsonl", sa.Text, nullable=False, default=""),
)
# A frozen copy of what a job was trained on, compressed. Apart from the job, which changes every few seconds while it
# trains: a database writes a row whole, and these may have a hundred megabytes.
job_data = sa.Table(
    "job_data",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("train", sa.LargeBinary, nullable=False),
    sa.Column("validation", sa.LargeBinary, nullable=False),
)
# Apart from their jobs: there are hundreds a job, and a list of jobs does without them.
job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job", sa.String, primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
)
reports = sa.Table(
    "reports",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    # Its own column: the page that cancels and the process that reports never overwrite each other.
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
)
# Paid for, so written before they are used; the key tells where, whom and what was asked.
answers = sa.Table(
    "answers",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("base_url", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("purpose", sa.String, nullable=False, index=True),
    # Where processes of an older version write a digest that nobody reads; else empty.
    sa.Column("request", sa.String, nullable=False, default=""),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("input_tokens", sa.Integer, nullable=False),
    sa.Column("cached_tokens", sa.Integer, nullable=False),
    sa.Column("output_tokens", sa.Integer, nullable=False),
    sa.Column("by_batch", sa.Boolean, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
# Batches that may be under way: a later writing at their place, of whatever model, collects those that are over.
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("tag", sa.String, primary_key=True),
    sa.Column("base_url", sa.String, nullable=False),
    sa.Column("model", sa.String, nullable=False),
    sa.Column("purpose", sa.String, nullable=False),
    sa.Column("keys", sa.JSON, nullable=False),
    sa.Column("file", sa.String, nullable=False),
    sa.Column("id", sa.String, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
)
# Where models live; keys are never here.
endpoints = sa.Table(
    "endpoints",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("base_url", sa.String, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
)
# What a model turned out to accept, learned from its server's refusals.
abilities = sa.Table(
    "abilities",
    metadata,
    sa.Column("base_url", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("body", sa.JSON, nullable=False),
)


class Store:
    """The user's saved work; every write is one transaction, every method raises StoreError when the disk refuses."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = Path(folder) if folder else workspace()
        url = os.environ.get("DRONE_FT_DATABASE") or f"sqlite:///{self.folder / 'drone_ft.db'}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"The folder {self.folder} cannot be made: {error.strerror}. Set DRONE_FT_WORKSPACE to another one."
            ) from error
        self._engine = sa.create_engine(url, json_serializer=lambda value: json.dumps(value, ensure_ascii=False))
        if url.startswith("sqlite"):
            sa.event.listen(self._engine, "connect", _set_up_sqlite)
        with self._transaction() as connection:
            is_new = _is_newest(connection)
        if not is_new:
            self._migrate()

    def _migrate(self) -> None:
        """Bring the database to the newest schema; one process at a time, as two may start at once."""
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        with FileLock(self.folder / "migrate.lock", timeout=60), self._transaction() as connection:
            if connection.dialect.name == "sqlite":
                # Python's sqlite3 begins no transaction before DDL: a kill halfway would leave half a migration behind.
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            if not _is_newest(connection):
                config = Config()
                config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
                config.attributes["connection"] = connection
                try:
                    command.upgrade(config, "head")
                except CommandError as error:
                    raise StoreError(
                        f"The database in {self.folder} was made by a newer version of this program ({error}). "
                        "Update the program, or set DRONE_FT_WORKSPACE to another folder."
                    ) from error

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except (sa.exc.DBAPIError, sa.exc.OperationalError) as error:
            raise StoreError(
                f"The database in {self.folder} refused: {error.orig}. Nothing saved before was changed. "
                "Check that the disk is not full and the folder may be written, then try again."
            ) from error

    # Catalogs

    def catalog(self) -> Catalog:
        """The current catalog; the default one until another is chosen."""
        with self._transaction() as connection:
            body = connection.scalar(sa.select(catalogs.c.body).where(catalogs.c.is_current))
        return parse_catalog(body, body["name"]) if body else default_catalog()

    def catalogs(self) -> list[str]:
        """Names of the saved catalogs, in order."""
        with self._transaction() as connection:
            return list(connection.scalars(sa.select(catalogs.c.name).order_by(catalogs.c.name)))

    def set_catalog(self, catalog: Catalog) -> Catalog:
        """Save a catalog and make it the current one; where its name is taken by another, it gets a number."""
        with self._transaction() as connection:
            saved = {row.name: row.body for row in connection.execute(sa.select(catalogs.c.name, catalogs.c.body))}
            name, number = catalog.name, 1
            while name in saved and saved[name] != dataclasses.replace(catalog, name=name).to_json():
                number += 1
                name = f"{catalog.name} {number}"
            catalog = dataclasses.replace(catalog, name=name)
            connection.execute(catalogs.update().values(is_current=False))
            connection.execute(catalogs.delete().where(catalogs.c.name == name))
            connection.execute(catalogs.insert().values(name=name, body=catalog.to_json(), is_current=True))
        return catalog

    def choose_catalog(self, name: str) -> Catalog:
        """Make a saved catalog the current one; raises StoreError for an unknown name."""
        with self._transaction() as connection:
            body = connection.scalar(sa.select(catalogs.c.body).where(catalogs.c.name == name))
        if body is None:
            raise StoreError(
                f"There is no saved catalog named {name!r}. Choose one of: {', '.join(self.catalogs()) or 'none yet'}."
            )
        return self.set_catalog(parse_catalog(body, name))

    # Examples of the current catalog

    def examples(self, catalog: str | None = None) -> list[Example]:
        """The examples of a catalog (the current one), in order, without the removed."""
        with self._transaction() as connection:
            query = sa.select(examples.c.body).where(
                examples.c.catalog == (catalog or self._current(connection)), examples.c.removal.is_(None)
            )
            return [_example(body) for body in connection.scalars(query.order_by(examples.c.row))]

    def replace_examples(self, new: Sequence[Example], catalog: str | None = None) -> int:
        """Put new examples in place of all; returns the removal, with which `undo_remove` brings the old back."""
        with self._transaction() as connection:
            name = catalog or self._current(connection)
            removal = self._remove(connection, name, None)
            self._insert(connection, name, new)
        return removal

    def add_examples(self, new: Sequence[Example], catalog: str | None = None) -> None:
        """Add examples behind the others of a catalog (the current one)."""
        with self._transaction() as connection:
            self._insert(connection, catalog or self._current(connection), new)

    def save_example(self, example: Example, old_id: str | None = None) -> None:
        """Save an edited example in its place (`old_id` where editing changed its id), or add it."""
        with self._transaction() as connection:
            if not self._overwrite(connection, old_id or example.id, example):
                self._insert(connection, self._current(connection), [example])

    def change_examples(self, changed: Sequence[Example]) -> None:
        """Save examples whose ids are as they were, all or none."""
        with self._transaction() as connection:
            for example in changed:
                self._overwrite(connection, example.id, example)

    def remove_examples(self, ids: Sequence[str]) -> int:
        """Remove examples; the number returned brings them back with `undo_remove`."""
        with self._transaction() as connection:
            return self._remove(connection, self._current(connection), list(ids))

    def undo_remove(self, removal: int) -> int:
        """Bring back what a removal took, as far as it is not there again; returns how many came back."""
        with self._transaction() as connection:
            here = examples.c.catalog == self._current(connection)
            live = sa.select(examples.c.id).where(here, examples.c.removal.is_(None))
            taken = sa.and_(here, examples.c.removal == removal)
            # What was written again meanwhile stays as it is now; its old row would only stand in the way of undo.
            connection.execute(examples.delete().where(taken, examples.c.id.in_(live)))
            return connection.execute(examples.update().where(taken).values(removal=None)).rowcount

    def last_removed(self) -> tuple[int, int] | None:
        """The newest removal that can be undone and how many examples it took."""
        with self._transaction() as connection:
            here = sa.and_(examples.c.catalog == self._current(connection), examples.c.removal.is_not(None))
            query = sa.select(examples.c.removal, sa.func.count()).where(here).group_by(examples.c.removal)
            row = connection.execute(query.order_by(examples.c.removal.desc()).limit(1)).first()
        return (row[0], row[1]) if row else None

    def _current(self, connection: Connection) -> str:
        name = connection.scalar(sa.select(catalogs.c.name).where(catalogs.c.is_current))
        return str(name) if name else default_catalog().name

    def _insert(self, connection: Connection, name: str, new: Sequence[Example]) -> None:
        if new:
            connection.execute(
                examples.insert(), [{"catalog": name, "id": e.id, "body": dataclasses.asdict(e)} for e in new]
            )

    def _overwrite(self, connection: Connection, old_id: str, example: Example) -> bool:
        """Put an example in the place of another; whether that was there."""
        here = sa.and_(
            examples.c.catalog == self._current(connection), examples.c.removal.is_(None), examples.c.id == old_id
        )
        change = examples.update().where(here).values(id=example.id, body=dataclasses.asdict(example))
        return connection.execute(change).rowcount > 0

    def _remove(self, connection: Connection, name: str, ids: list[str] | None) -> int:
        removal = int(connection.scalar(sa.select(sa.func.max(examples.c.removal))) or 0) + 1
        here = sa.and_(examples.c.catalog == name, examples.c.removal.is_(None))
        change = examples.update().where(here if ids is None else sa.and_(here, examples.c.id.in_(ids)))
        connection.execute(change.values(removal=removal))
        return removal

    # Jobs

    def jobs(self, catalog: str | None = None) -> list[fine_tuning.Job]:
        """All fine-tuning jobs, or those of a catalog and of no known one; the newest first, without their events."""
        with self._transaction() as connection:
            bodies = connection.scalars(_of(sa.select(jobs.c.body), jobs, catalog).order_by(jobs.c.created.desc()))
            return [fine_tuning.Job(**body) for body in bodies]

    def job(self, job_id: str) -> fine_tuning.Job | None:
        """One job by our id, with its events."""
        told = sa.select(job_events.c.body).where(job_events.c.job == job_id).order_by(job_events.c.place)
        with self._transaction() as connection:
            body = connection.scalar(sa.select(jobs.c.body).where(jobs.c.id == job_id))
            # A process of an older version writes the events into the body too.
            return fine_tuning.Job(**{**body, "events": list(connection.scalars(told))}) if body else None

    def job_data(self, job_id: str) -> tuple[str, str]:
        """The frozen training and validation JSONL of a job."""
        with self._transaction() as connection:
            row = connection.execute(
                sa.select(job_data.c.train, job_data.c.validation).where(job_data.c.job == job_id)
            ).first()
            if row:
                return zlib.decompress(row[0]).decode(), zlib.decompress(row[1]).decode()
            older = connection.execute(
                sa.select(jobs.c.train_jsonl, jobs.c.validation_jsonl).where(jobs.c.id == job_id)
            ).first()
        return (older[0], older[1]) if older else ("", "")

    def save_job(
        self, job: fine_tuning.Job, train_jsonl: str | None = None, validation_jsonl: str | None = None
    ) -> None:
        """Save a job; its data is written once, with the first save, and so is each of its events."""
        body = dataclasses.asdict(dataclasses.replace(job, events=[]))
        del body["events"]
        with self._transaction() as connection:
            if not connection.execute(jobs.update().where(jobs.c.id == job.id).values(body=body)).rowcount:
                train, validation = (zlib.compress((text or "").encode()) for text in (train_jsonl, validation_jsonl))
                connection.execute(jobs.insert().values(id=job.id, created=job.created, body=body))
                connection.execute(job_data.insert().values(job=job.id, train=train, validation=validation))
            told = int(
                connection.scalar(sa.select(sa.func.count()).where(job_events.c.job == job.id).select_from(job_events))
                or 0
            )
            fresh = [{"job": job.id, "place": at, "body": e} for at, e in enumerate(job.events) if at >= told]
            if fresh:
                connection.execute(job_events.insert(), fresh)

    # Reports

    def reports(self, catalog: str | None = None) -> list[evaluation.Report]:
        """All evaluation reports, or those of a catalog and of no known one; the newest first."""
        query = _of(sa.select(reports.c.body), reports, catalog).order_by(reports.c.created.desc())
        with self._transaction() as connection:
            return [_report(body) for body in connection.scalars(query)]

    def latest_report(self, catalog: str | None = None) -> evaluation.Report | None:
        """The first of `reports`, without reading the others."""
        query = _of(sa.select(reports.c.body), reports, catalog).order_by(reports.c.created.desc()).limit(1)
        with self._transaction() as connection:
            body = connection.scalar(query)
        return _report(body) if body else None

    def report(self, report_id: str) -> evaluation.Report | None:
        """One report by its id."""
        with self._transaction() as connection:
            body = connection.scalar(sa.select(reports.c.body).where(reports.c.id == report_id))
        return _report(body) if body else None

    def save_report(self, report: evaluation.Report) -> None:
        """Save a report, in place of one with the same id."""
        with self._transaction() as connection:
            connection.execute(reports.delete().where(reports.c.id == report.id))
            connection.execute(
                reports.insert().values(
                    id=report.id, created=report.created or time.time(), body=dataclasses.asdict(report)
                )
            )

    # Runs

    def runs(self) -> list[work.Run]:
        """All runs, the newest first, as they truly stand."""
        with self._transaction() as connection:
            return [_run(body) for body in connection.scalars(sa.select(runs.c.body).order_by(runs.c.created.desc()))]

    def run(self, run_id: str) -> work.Run | None:
        """One run, as it truly stands."""
        with self._transaction() as connection:
            body = connection.scalar(sa.select(runs.c.body).where(runs.c.id == run_id))
        return _run(body) if body else None

    def latest_run(self, kind: str | None = None) -> work.Run | None:
        """The newest run, or the newest of a kind, as it truly stands."""
        query = sa.select(runs.c.body).order_by(runs.c.created.desc()).limit(1)
        with self._transaction() as connection:
            body = connection.scalar(query.where(runs.c.kind == kind) if kind else query)
        return _run(body) if body else None

    def save_run(self, run: work.Run) -> None:
        """Save a run's progress."""
        body = dataclasses.asdict(run)
        with self._transaction() as connection:
            if not connection.execute(runs.update().where(runs.c.id == run.id).values(body=body)).rowcount:
                connection.execute(
                    runs.insert().values(
                        id=run.id, kind=run.kind, created=run.created, body=body, cancel_requested=False
                    )
                )

    def request_cancel(self, run_id: str) -> None:
        """Leave word that a run should stop."""
        with self._transaction() as connection:
            connection.execute(runs.update().where(runs.c.id == run_id).values(cancel_requested=True))

    def is_cancel_requested(self, run_id: str) -> bool:
        """Whether somebody asked a run to stop."""
        with self._transaction() as connection:
            return bool(connection.scalar(sa.select(runs.c.cancel_requested).where(runs.c.id == run_id)))

    # Answers that were paid for

    def answer(self, key: str) -> Answer | None:
        """The answer of a key, whenever it was given."""
        with self._transaction() as connection:
            row = connection.execute(sa.select(answers).where(answers.c.key == key)).mappings().first()
        return Answer(**{name: value for name, value in row.items() if name != "request"}) if row else None

    def keep_answers(self, new: Sequence[Answer]) -> None:
        """Write answers down, all or none; one that is there already stays."""
        if not new:
            return
        with self._transaction() as connection:
            # In one statement: between a look and an insert another process may keep the same. In one order, so that
            # no two wait for each other.
            dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
            insert = dialect.insert(answers).on_conflict_do_nothing(index_elements=["key"])
            connection.execute(insert, [dataclasses.asdict(one) for one in sorted(new, key=lambda one: one.key)])

    # Batches that may be under way

    def batches(self, base_url: str) -> list[Open]:
        """The batches asked of a place's models and not collected yet, the oldest first."""
        query = sa.select(batches).where(batches.c.base_url == base_url).order_by(batches.c.created)
        with self._transaction() as connection:
            rows = connection.execute(query).mappings().all()
        return [Open(**{**row, "keys": tuple(row["keys"])}) for row in rows]

    def save_batch(self, batch: Open) -> None:
        """Save a batch, in place of one with the same tag."""
        with self._transaction() as connection:
            connection.execute(batches.delete().where(batches.c.tag == batch.tag))
            connection.execute(batches.insert().values(**dataclasses.asdict(batch)))

    def remove_batch(self, tag: str) -> None:
        """Forget a batch: what came of it is among the answers."""
        with self._transaction() as connection:
            connection.execute(batches.delete().where(batches.c.tag == tag))

    # Endpoints, and what their models can do

    def endpoints(self) -> list[Endpoint]:
        """The endpoints the user has added, in order of their names; this computer needs no adding."""
        with self._transaction() as connection:
            return [
                Endpoint(**row)
                for row in connection.execute(sa.select(endpoints).order_by(endpoints.c.name)).mappings()
            ]

    def save_endpoint(self, endpoint: Endpoint) -> None:
        """Save an endpoint, in place of one with the same name."""
        with self._transaction() as connection:
            connection.execute(endpoints.delete().where(endpoints.c.name == endpoint.name))
            connection.execute(endpoints.insert().values(**dataclasses.asdict(endpoint)))

    def remove_endpoint(self, name: str) -> None:
        """Forget an endpoint; what was asked and learned there stays."""
        with self._transaction() as connection:
            connection.execute(endpoints.delete().where(endpoints.c.name == name))

    def get(self, base_url: str, model: str) -> dict[str, str]:
        """What is known of a model's abilities; {} where nothing is. With `put`, the memory of `abilities.chat`."""
        here = sa.and_(abilities.c.base_url == base_url, abilities.c.model == model)
        with self._transaction() as connection:
            return dict(connection.scalar(sa.select(abilities.c.body).where(here)) or {})

    def learned(self, base_url: str) -> dict[str, dict[str, str]]:
        """What is known of the abilities of a place's models, by model; only those of which something is."""
        query = sa.select(abilities.c.model, abilities.c.body).where(abilities.c.base_url == base_url.rstrip("/"))
        with self._transaction() as connection:
            rows = connection.execute(query.order_by(abilities.c.model)).all()
        return {row.model: dict(row.body) for row in rows if row.body}

    def forget(self, base_url: str, model: str) -> None:
        """Forget what is known of a model's abilities, so that it is learned anew."""
        here = sa.and_(abilities.c.base_url == base_url.rstrip("/"), abilities.c.model == model)
        with self._transaction() as connection:
            connection.execute(abilities.delete().where(here))

    def put(self, base_url: str, model: str, learned: dict[str, str]) -> None:
        """Remember what is known of a model's abilities."""
        here = sa.and_(abilities.c.base_url == base_url, abilities.c.model == model)
        with self._transaction() as connection:
            connection.execute(abilities.delete().where(here))
            connection.execute(abilities.insert().values(base_url=base_url, model=model, body=learned))


def _set_up_sqlite(connection: Any, record: Any) -> None:
    # The app and the work write side by side: readers never wait, writers wait for each other.
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=15000")


def _is_newest(connection: Connection) -> bool:
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    return bool(connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == NEWEST_MIGRATION)


def _of(query: sa.Select[Any], table: sa.Table, catalog: str | None) -> sa.Select[Any]:
    """A query narrowed to what belongs to a catalog, or to no known one."""
    if catalog is None:
        return query
    known = table.c.body["catalog"].as_string()
    return query.where(sa.or_(known.is_(None), known.in_(["", catalog])))


def _example(body: dict[str, Any]) -> Example:
    return Example(**{**body, "call": Call(**body["call"])})


def _run(body: dict[str, Any]) -> work.Run:
    return work.settle(work.Run(**{**body, "steps": tuple(work.Step(**step) for step in body["steps"])}))


def _report(body: dict[str, Any]) -> evaluation.Report:
    cases = [evaluation.Case(**{**row, "call": Call(**row["call"])}) for row in body["cases"]]
    answers = {model: [evaluation.Answer.from_json(row) for row in rows] for model, rows in body["answers"].items()}
    return evaluation.Report(**{**body, "cases": cases, "answers": answers})
