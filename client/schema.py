"""The partner's database: its tables, its version, and the way from earlier versions.

``PRAGMA user_version`` is the version: 0 is 0.3.0's, 1 is 0.4.0's. A migration is one transaction: it is done
or it is not.
"""

from __future__ import annotations

import sqlite3

from privacy.errors import ConfigError

VERSION = 2

TABLES = """
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, spec BLOB NOT NULL, created REAL NOT NULL, touched REAL NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('open', 'done', 'failed', 'cancelled', 'expired', 'abandoned')),
  snapshot TEXT, outcome BLOB);
CREATE TABLE secrets (
  job TEXT NOT NULL, name TEXT NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (job, name));
CREATE TABLE replies (
  job TEXT NOT NULL, step TEXT NOT NULL, pin BLOB NOT NULL, sealed BLOB NOT NULL,
  PRIMARY KEY (job, step));
CREATE TABLE releases (
  job TEXT NOT NULL, release INTEGER NOT NULL, pin BLOB NOT NULL, PRIMARY KEY (job, release));
CREATE TABLE journal (
  sequence INTEGER PRIMARY KEY, version INTEGER NOT NULL, time REAL NOT NULL, kind TEXT NOT NULL,
  job TEXT NOT NULL, size INTEGER NOT NULL, content BLOB NOT NULL, recipient TEXT NOT NULL,
  body BLOB, previous BLOB NOT NULL, digest BLOB NOT NULL, signature BLOB NOT NULL);
CREATE INDEX journal_by_content ON journal (job, content);
CREATE TABLE disclosures (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, job TEXT NOT NULL,
  kind TEXT NOT NULL, recipient TEXT NOT NULL, purpose TEXT NOT NULL,
  audience TEXT NOT NULL DEFAULT '', epoch INTEGER NOT NULL DEFAULT 0);
CREATE TABLE nonces (nonce BLOB PRIMARY KEY, expires REAL NOT NULL);
CREATE INDEX nonces_by_time ON nonces (expires);
CREATE TABLE models (
  name TEXT NOT NULL, job TEXT NOT NULL, time REAL NOT NULL, digest BLOB NOT NULL,
  verified INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (name, job));
CREATE TABLE epochs (
  audience TEXT NOT NULL, epoch INTEGER NOT NULL, time REAL NOT NULL, until REAL NOT NULL,
  people INTEGER NOT NULL, uses INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0,
  definition BLOB NOT NULL, commitment BLOB NOT NULL, PRIMARY KEY (audience, epoch));
CREATE TABLE caches (
  peer TEXT NOT NULL, name TEXT NOT NULL, receives INTEGER NOT NULL, job TEXT NOT NULL,
  time REAL NOT NULL, asked INTEGER NOT NULL, sealed BLOB NOT NULL,
  audience TEXT NOT NULL DEFAULT '', epoch INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (peer, name, receives));
CREATE TABLE heads (
  contract BLOB NOT NULL, party TEXT NOT NULL, sequence INTEGER NOT NULL, digest BLOB NOT NULL,
  time INTEGER NOT NULL, signed BLOB, PRIMARY KEY (contract, party));
CREATE TABLE vouched (party TEXT PRIMARY KEY, sequence INTEGER NOT NULL, time INTEGER NOT NULL);
CREATE TABLE refusals (
  code TEXT NOT NULL, kind TEXT NOT NULL, reason TEXT NOT NULL, job TEXT NOT NULL,
  count INTEGER NOT NULL, first REAL NOT NULL, last REAL NOT NULL, PRIMARY KEY (code, kind, reason));
CREATE TABLE snapshots (
  id TEXT PRIMARY KEY, signature BLOB NOT NULL, digest BLOB NOT NULL, time REAL NOT NULL);
CREATE TABLE carried (
  time REAL NOT NULL, job TEXT NOT NULL, release TEXT NOT NULL, mu2 REAL NOT NULL, delta REAL NOT NULL);
"""

_SINCE = {
    2: (  # the head of the coordinator's call log, and those that did not fit it
        "CREATE TABLE calls (id INTEGER PRIMARY KEY CHECK (id = 1), signed BLOB NOT NULL,"
        " first_lines INTEGER NOT NULL, first_came REAL NOT NULL)",
        "CREATE TABLE calls_noted (time REAL NOT NULL, why TEXT NOT NULL, held BLOB NOT NULL,"
        " shown BLOB NOT NULL)",
    ),
}
"""What each version adds to the tables of the first."""

_FROM_030 = (
    "ALTER TABLE jobs RENAME TO jobs_030",
    "ALTER TABLE journal RENAME TO journal_030",
    "ALTER TABLE charges RENAME TO charges_030",
    "ALTER TABLE disclosures RENAME TO disclosures_030",
    "ALTER TABLE models RENAME TO models_030",
    "ALTER TABLE heads RENAME TO heads_030",
    "DROP TABLE secrets",
    "DROP TABLE replies",
    "DROP TABLE nonces",
    "DROP TABLE sets",
    "DROP TABLE caches",
)
_INTO_1 = (
    # A job of 0.3.0 cannot go on: its secrets were sealed without a key of its own, and are gone now.
    "INSERT INTO jobs SELECT id, spec, created, created,"
    " CASE state WHEN 'open' THEN 'abandoned' ELSE state END, NULL, NULL FROM jobs_030",
    "INSERT INTO journal SELECT sequence, 1, time, kind, job, size, content, recipient, NULL, previous,"
    " digest, signature FROM journal_030",
    "INSERT INTO carried SELECT time, job, release, mu2, delta FROM charges_030 ORDER BY sequence",
    "INSERT INTO disclosures (sequence, time, job, kind, recipient, purpose)"
    " SELECT sequence, time, job, kind, recipient, purpose FROM disclosures_030",
    "INSERT INTO models SELECT name, '', time, digest, 0, sealed FROM models_030",
    "INSERT INTO heads SELECT x'', party, sequence, digest, 0, NULL FROM heads_030",
    "DROP TABLE jobs_030",
    "DROP TABLE journal_030",
    "DROP TABLE charges_030",
    "DROP TABLE disclosures_030",
    "DROP TABLE models_030",
    "DROP TABLE heads_030",
)


def prepare(db: sqlite3.Connection) -> None:
    """Make the tables, or bring them to this version. Raises ConfigError for a later version's file.

    Charges of 0.3.0 are carried over into ``carried``; the journal takes them in when it is opened with
    the identity key (:class:`client.journal.Journal`).
    """
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > VERSION:
        raise ConfigError(
            "state/gate.db",
            f"was written by a later version (schema {found}); install that version",
        )
    if found == VERSION:
        return
    db.execute("BEGIN IMMEDIATE")
    try:
        if int(db.execute("PRAGMA user_version").fetchone()[0]) == found:  # nobody was faster
            _upgrade(db, found)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _upgrade(db: sqlite3.Connection, found: int) -> None:
    if found == 0:
        _make_first(db)
    for version in range(max(found, 1) + 1, VERSION + 1):
        for statement in _SINCE[version]:
            db.execute(statement)
    db.execute(f"PRAGMA user_version = {VERSION}")


def _make_first(db: sqlite3.Connection) -> None:
    """The tables of version 1, empty or with what 0.3.0 kept."""
    old = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'charges'").fetchone()
    for statement in _FROM_030 if old else ():
        db.execute(statement)
    for statement in TABLES.split(";"):
        if statement.strip():
            db.execute(statement)
    for statement in _INTO_1 if old else ():
        db.execute(statement)
