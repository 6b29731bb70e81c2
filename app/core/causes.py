"""Why something failed, in a sentence for the operator: texts of errors hide the cause, and may hold what was sent."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy.exc import DBAPIError

from app.core.config import PlainError

URL = "LETHE_DATABASE_URL"
REFUSED = f"the database refuses the user or password of {URL}"
# What the driver says where no connection came about; the server's words may be in another language. First fit counts.
REFUSALS = (
    ("resolve host|translate host|Name or service|nodename", f"the host of {URL} is not known"),
    ("no pg_hba|password|authentication|role .* does not exist|SASL|no such user", REFUSED),
    ("database .* does not exist|no such database", f"the server of {URL} has no such database: make it, in UTF-8"),
    ("unsupported startup parameter", f"the pooler of {URL} refuses a start-up parameter: unset PGOPTIONS"),
    ("SSL|TLS|certificate", f"no encrypted connection comes about: see sslmode and sslrootcert of {URL}"),
    ("too many (connections|clients)|remaining connection slots", f"the database of {URL} has no connection left"),
    ("starting up|shutting down|recovery", f"the database of {URL} is starting or stopping: try again"),
    ("refused|timeout|timed out|unreachable|No such file|reset|closed", f"no database answers at {URL}"),
)
BY_STATE = {
    "42501": f"the user of {URL} may not do this: let it create tables in its schema (GRANT CREATE, USAGE ON SCHEMA)",
    "3F000": f"the schema of {URL} is not there: make it (CREATE SCHEMA), or change its search_path",
    "25006": f"the database of {URL} is read-only, perhaps a replica: name the primary",
    **dict.fromkeys(("28000", "28P01"), REFUSED),
    "3D000": f"the server of {URL} has no such database: make it, in UTF-8",
    "53100": "the disk of the database is full",
    "53300": f"the database of {URL} has no connection left",
    **dict.fromkeys(("42704", "22023", "55P02"), f"the database refuses what `options` of {URL} sets"),
}
FILE = "the file lethe.db of LETHE_DATA_DIR"
BY_CODE = {
    sqlite3.SQLITE_CANTOPEN: f"{FILE} cannot be opened: let this user read and write it and its folder",
    sqlite3.SQLITE_READONLY: f"{FILE} cannot be written: let this user write it and its folder",
    sqlite3.SQLITE_NOTADB: f"{FILE} is no database: restore it from a backup",
    sqlite3.SQLITE_CORRUPT: f"{FILE} is damaged: restore it from a backup",
    sqlite3.SQLITE_FULL: "the disk of LETHE_DATA_DIR is full",
    sqlite3.SQLITE_IOERR: "the disk of LETHE_DATA_DIR fails",
    sqlite3.SQLITE_BUSY: f"{FILE} is locked by another program",
}


def cause(error: BaseException) -> str:
    """Of what went wrong, a sentence that names the setting to mend and repeats nothing that was sent.

    The text of an error may hold what a client or an operator sent, so it is only looked at.
    """
    match error:
        case PlainError():
            return str(error)
        case DBAPIError():
            return _of_database(error)
        case OSError() if error.filename:
            return f"{error.filename}: {error.strerror}"
        case OSError() if error.strerror:
            return error.strerror
    return type(error).__name__


def _of_database(error: DBAPIError) -> str:
    if isinstance(error.orig, sqlite3.Error):
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF
        return BY_CODE.get(code, f"{FILE} refused ({type(error.orig).__name__})")
    state = getattr(error.orig, "sqlstate", None)
    if state in BY_STATE:
        return BY_STATE[state]
    text = str(error.orig)
    if state is None and "connection option" in text:
        return f"{URL} has a parameter that PostgreSQL does not know"
    for pattern, words in REFUSALS if state is None else ():
        if re.search(pattern, text, re.IGNORECASE):
            return words
    return f"the database of {URL} refused ({state or type(error.orig).__name__})"
