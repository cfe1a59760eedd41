"""Databases of MLflow: whether one elsewhere answers, and where a local one keeps its files."""

import contextlib
import logging
import socket
import sqlite3
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from featurize.io.files import digest
from featurize.io.remote import user_cache_dir

_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mssql": 1433}
_LIMITS = {
    "postgresql": ("connect_timeout",),
    "postgresql+psycopg2": ("connect_timeout",),
    "postgresql+psycopg": ("connect_timeout",),
    "mysql": ("connect_timeout", "read_timeout"),
    "mysql+mysqldb": ("connect_timeout", "read_timeout"),
    "mysql+pymysql": ("connect_timeout", "read_timeout"),
}
"""Arguments of drivers, in seconds; `read_timeout` also limits each query."""
_MISTAKES = ("password", "authentication", "access denied", "does not exist", "unknown database")
"""Words of a database that answers and refuses."""

logger = logging.getLogger(__name__)


class DatabaseRefused(Exception):
    """The URI or its driver is wrong, or the database refuses user or password."""


class DatabaseDown(Exception):
    """The database does not answer now; it may later."""


def is_network_database(uri: str) -> bool:
    """Whether a tracking URI names a database that is not a file."""
    return _kind(uri) in _PORTS


def with_timeout(uri: str, seconds: int) -> str:
    """Return the URI of a database with a limit on the time to connect, if it has none."""
    parts = urlsplit(uri)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme not in _LIMITS or "connect_timeout" in query:
        return uri
    return urlunsplit(parts._replace(query=urlencode(query | {"connect_timeout": seconds})))


def without_password(uri: str) -> str:
    """Return a URI as messages may show it."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    before, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{before.partition(':')[0]}:***@{host}"))


def check_answer(uri: str, seconds: int) -> None:
    """Connect to a database once; MLflow itself would try for minutes.

    Raises:
        DatabaseDown: it does not answer within `seconds`, or is not ready.
        DatabaseRefused: it, or its driver, will never take this URI.
    """
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError

    try:
        limits = dict.fromkeys(_LIMITS.get(urlsplit(uri).scheme, ()), seconds)
        engine = sqlalchemy.create_engine(uri, connect_args=limits)
    except ModuleNotFoundError as error:
        reason = f"the library {error.name} is missing; install it with pip"
        raise DatabaseRefused(reason) from error
    except (SQLAlchemyError, ValueError) as error:
        raise DatabaseRefused(str(error).splitlines()[0]) from error
    _check_host(uri, seconds)
    try:
        engine.connect().close()
    except (SQLAlchemyError, OSError) as error:
        kind = DatabaseRefused if is_mistake(error) else DatabaseDown
        raise kind(str(error).splitlines()[0]) from error
    finally:
        engine.dispose()


def is_mistake(error: Exception) -> bool:
    """Whether a database that answered refused what it was asked."""
    text = str(error).casefold()
    return any(word in text for word in _MISTAKES)


def to_plain_folder(folder: Path) -> Path:
    """Return the folder, or a link to it if MLflow would misread its name (%, ? or #)."""
    if not any(mark in str(folder.absolute()) for mark in "%?#"):
        return folder
    link = user_cache_dir() / "tracking" / digest(str(folder.absolute())) / folder.name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        with contextlib.suppress(FileExistsError):  # another process made it meanwhile
            link.symlink_to(folder.absolute())
    return link


def follow_folder(database: Path, artifacts: Path) -> None:
    """Let the runs of a local database have their files in `artifacts`, where its folder is now.

    MLflow keeps absolute paths; if the folder has moved, it would make the old one again.
    """
    wanted = artifacts.absolute().as_uri()
    ending = "/" + "/".join(artifacts.parts[-2:])
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        rows = connection.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in rows:
            if not old or old == wanted or not old.endswith(ending):
                continue
            logger.info(
                "%s: the files of its runs are in %s, no longer in %s", database, wanted, old
            )
            connection.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
                (wanted, old),
            )
            connection.execute(
                "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?)"
                " WHERE substr(artifact_uri, 1, ?) = ?",
                (wanted, len(old) + 1, len(old) + 1, old + "/"),
            )


def _check_host(uri: str, seconds: int) -> None:
    """Raise DatabaseDown unless the machine takes a connection; drivers differ in their limits."""
    parts = urlsplit(uri)
    if parts.hostname is None:
        return  # a socket of this machine
    address = (parts.hostname, parts.port or _PORTS[_kind(uri)])
    try:
        socket.create_connection(address, timeout=seconds).close()
    except OSError as error:
        raise DatabaseDown(f"{address[0]}:{address[1]} does not answer ({error})") from error


def _kind(uri: str) -> str:
    """The database of a URI such as postgresql+psycopg2://..."""
    return uri.partition(":")[0].partition("+")[0]
