"""Databases on other machines: a database that is down is not mistaken for a wrong URI."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from featurize.errors import CriticError
from headtrain.tracking import database
from headtrain.tracking.database import (
    DatabaseDown,
    DatabaseRefused,
    check_answer,
    is_mistake,
    is_network_database,
    with_timeout,
    without_password,
)
from headtrain.tracking.server import MlflowTracker, TrackingDown
from headtrain.tracking.waiting import WaitingTracker


@contextmanager
def port(*, is_open: bool) -> Iterator[int]:
    """A port of this machine; if open, it takes connections and says nothing."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if is_open:
            listening.listen()
        yield listening.getsockname()[1]


def test_only_databases_that_are_no_files_are_of_the_network() -> None:
    for uri in ("postgresql://h/d", "postgresql+psycopg2://h/d", "mysql+pymysql://u@h:1/d"):
        assert is_network_database(uri)
    for uri in ("sqlite:///a.db", "http://h:5000", "https://h", "file:///a", "databricks"):
        assert not is_network_database(uri)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:p@h/d?connect_timeout=8"),
        ("mysql+pymysql://h/d?charset=utf8", "mysql+pymysql://h/d?charset=utf8&connect_timeout=8"),
        ("postgresql://h/d?connect_timeout=60", "postgresql://h/d?connect_timeout=60"),
        ("mssql+pyodbc://h/d", "mssql+pyodbc://h/d"),
        ("sqlite:////tmp/a%20b.db", "sqlite:////tmp/a%20b.db"),
        ("http://h:5000", "http://h:5000"),
    ],
)
def test_the_time_to_connect_is_limited_unless_the_user_did(uri: str, expected: str) -> None:
    assert with_timeout(uri, 8) == expected


def test_no_message_shows_a_password() -> None:
    assert without_password("postgresql://me:se:cr@t@h:1/d") == "postgresql://me:***@h:1/d"
    assert without_password("http://h:5000") == "http://h:5000"
    with port(is_open=False) as closed:
        uri = f"mysql+pymysql://me:secret@127.0.0.1:{closed}/d"
        with pytest.raises(CriticError, match="tracking_uri") as caught:
            MlflowTracker(uri, "critic").begin({}, None)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        'FATAL:  password authentication failed for user "me"',
        "(1045, \"Access denied for user 'me'\")",
        'FATAL:  database "critic" does not exist',
        "(1049, \"Unknown database 'critic'\")",
    ],
)
def test_a_refusal_is_a_mistake(text: str) -> None:
    assert is_mistake(RuntimeError(text))


@pytest.mark.parametrize(
    "text",
    [
        "connection timeout expired",
        "FATAL:  the database system is starting up",
        "server closed the connection unexpectedly",
        "FATAL:  sorry, too many clients already",
    ],
)
def test_a_database_that_is_not_ready_is_no_mistake(text: str) -> None:
    assert not is_mistake(RuntimeError(text))


def test_a_missing_driver_and_a_bad_uri_are_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(uri: str, **_: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg2'", name="psycopg2")

    with pytest.raises(DatabaseRefused):
        check_answer("postgresql+nothing://h/d", 1)
    monkeypatch.setattr("sqlalchemy.create_engine", fail)
    with pytest.raises(DatabaseRefused, match=r"psycopg2 is missing; install"):
        check_answer("postgresql://h/d", 1)
    with pytest.raises(CriticError, match="psycopg2 is missing") as caught:
        MlflowTracker("postgresql://h/d", "critic").begin({}, None)
    assert not isinstance(caught.value, TrackingDown)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_database_that_is_down_or_silent_is_down(
    is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pymysql")
    monkeypatch.setattr("headtrain.tracking.server.SECONDS_TO_ANSWER", 1)
    with port(is_open=is_open) as number:
        uri = f"mysql+pymysql://me@127.0.0.1:{number}/d"
        with pytest.raises(DatabaseDown):
            check_answer(uri, 1)
        with pytest.raises(TrackingDown, match=str(number)):
            MlflowTracker(uri, "critic").begin({}, None)


def test_an_address_that_does_not_answer_needs_no_driver_to_be_down() -> None:
    with port(is_open=False) as closed, pytest.raises(DatabaseDown, match=f"{closed} does not"):
        database._check_host(f"postgresql://me@127.0.0.1:{closed}/d", 1)


def test_what_waits_for_a_database_holds_no_password(tmp_path: Path) -> None:
    pytest.importorskip("pymysql")
    with port(is_open=False) as closed:
        uri = f"mysql+pymysql://me:secret@127.0.0.1:{closed}/d"
        tracker = WaitingTracker(lambda: MlflowTracker(uri, "critic"), tmp_path)
        tracker.begin({}, None)
        tracker.finish()
    [events] = tmp_path.glob("*/events.jsonl")
    assert "secret" not in events.read_text()
    assert "me:***@" in events.read_text()
