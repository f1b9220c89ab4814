"""A table of PostgreSQL, copied out as CSV in one statement: what it sees is one moment of the table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from privacy.errors import DataError

SCHEMES = ("postgresql://", "postgres://")


def copy(location: str, table: str, columns: Sequence[str] | None, target: BinaryIO) -> None:
    """Write ``columns``, all for None, of ``table`` (``schema.table`` or ``table``) to ``target``, with a
    heading; null is an empty cell, an empty text a quoted one. Raises DataError, which quotes nothing."""
    try:
        import psycopg
        from psycopg import sql
    except ImportError:
        raise DataError("PostgreSQL needs the extra: pip install 'tallystick[postgres]'") from None
    chosen = sql.SQL("*") if columns is None else sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT WITH (FORMAT csv, HEADER)").format(
        chosen, sql.SQL(".").join(map(sql.Identifier, table.split(".")))
    )
    try:
        with (
            psycopg.connect(location, connect_timeout=10, client_encoding="utf8") as connection,
            connection.cursor() as cursor,
            cursor.copy(query) as rows,
        ):
            for data in rows:
                target.write(data)
    except psycopg.errors.UndefinedColumn:
        raise DataError("database: a mapped column does not exist") from None
    except psycopg.errors.UndefinedTable:
        raise DataError("database: the table does not exist") from None
    except psycopg.Error as error:
        reason = f"database: {type(error).__name__}; is it running and reachable, may you read it?"
        raise DataError(reason) from None
