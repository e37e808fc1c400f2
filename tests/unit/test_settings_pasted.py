"""What people paste into a setting: it is understood, or one line says what to write, and shows no password."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Settings, load_settings, safe_url

PLACES = {
    "database_url": "postgresql://shop:{}@db:5432/shop",
    "broker_url": "amqp://shop:{}@mq:5672/",
    "redis_url": "redis://:{}@r/0",
}


def refused(tmp_path: Path, **settings: object) -> str:
    with pytest.raises(ConfigurationError) as why:
        load_settings(environment={}, directory=tmp_path, **settings)
    return str(why.value)


@pytest.mark.parametrize("setting", PLACES)
@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("hun@ter2", "write @ as %40"),
        ("hun/ter2", "write / as %2F"),
        ("hun?ter2", "write ? as %3F"),
        ("hun#ter2", "write # as %23"),
        ("hun%ter2", "write % as %25"),
        ("hun[ter]2", "write [ as %5B, ] as %5D"),
        ("hun\\ter2", "write \\ as %5C"),
        ("hun ter2", "write a blank as %20"),
        ("h@u:n/t?e#r2", "write @ as %40, / as %2F, ? as %3F, # as %23"),
    ],
)
def test_a_password_with_signs_of_a_url_is_refused_with_how_to_write_it_and_not_shown(
    tmp_path: Path, setting: str, password: str, says: str
) -> None:
    said = refused(tmp_path, **{setting: PLACES[setting].format(password)})
    assert says in said
    assert not re.search("hun|h@u|ter2|r2", said)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2",
        "redis://hunter2:6379x/0",
        "postgresql://shop:hunter2",
        "user:hunter2@db/shop",
        "host=db user=shop password=hunter2",
        "hunter2",
        "mysql://root:hunter2@db/shop",
        "shop:hunter2@postgresql://db/shop",
        "jdbc:postgresql://db/shop?user=shop&password=hunter2",
        "postgresql//shop:hunter2@db/shop",
    ],
)
@pytest.mark.parametrize("setting", PLACES)
def test_what_is_no_url_is_refused_and_its_password_is_not_shown(tmp_path: Path, setting: str, url: str) -> None:
    said = refused(tmp_path, **{setting: url})
    assert setting in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://u:p@h1:1,h2:2/db", "postgresql+psycopg://u:p@h1:1,h2:2/db"),
        ("postgresql://u:a:b@h/db", "postgresql+psycopg://u:a:b@h/db"),
        ("postgresql://u:%40%3A%2F%25@[::1]:5432/db", "postgresql+psycopg://u:%40%3A%2F%25@[::1]:5432/db"),
        ("postgresql://u@/db?host=/var/run/postgresql", "postgresql+psycopg://u@/db?host=/var/run/postgresql"),
        ("postgresql:///db?sslcert=/a@b.pem", "postgresql+psycopg:///db?sslcert=/a@b.pem"),
        (' "postgresql://u:p@h/db" ', "postgresql+psycopg://u:p@h/db"),
        ("'postgres://u:p@h/db'", "postgresql+psycopg://u:p@h/db"),
        ("postgresql://u:ä€@h/db", "postgresql+psycopg://u:ä€@h/db"),
    ],
)
def test_what_a_url_may_hold_is_taken(url: str, kept: str) -> None:
    assert Settings(database_url=url).database_url == kept


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("sqlite:///~/x.db", f"sqlite:///{Path.home()}/x.db"),
        ("sqlite:////tmp/a%b{c}.db", "sqlite:////tmp/a%b{c}.db"),
        ("sqlite:////tmp/a@b c.db", "sqlite:////tmp/a@b c.db"),
        ("sqlite:///x.db", f"sqlite:///{Path.cwd()}/x.db"),
    ],
)
def test_a_path_of_sqlite_is_made_absolute(url: str, kept: str) -> None:
    assert Settings(database_url=url).database_url == kept


@pytest.mark.skipif(os.name == "nt", reason="there such a path is one")
@pytest.mark.parametrize(
    ("url", "says"),
    [
        (r"sqlite:///C:\Users\me\x.db", "this is a path of Windows"),
        ("sqlite:///C:/Users/me/x.db", "this is a path of Windows"),
        (r"sqlite:///data\x.db", "this is a path of Windows"),
        ("sqlite:////~/x.db", "sqlite:///~/stageflow.db"),
        ("sqlite://~/x.db", "three slashes"),
        ("sqlite:///~nobody-here/x.db", "~nobody-here is the home directory of nobody"),
        ("sqlite:///a\0b.db", "NUL"),
        ("/var/lib/x.db", "did you mean sqlite:////var/lib/x.db?"),
        ("x.db", "did you mean sqlite:///x.db?"),
        ("~/x.sqlite3", "did you mean sqlite:///~/x.sqlite3?"),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused_with_the_way_to_write_it(tmp_path: Path, url: str, says: str) -> None:
    assert says in refused(tmp_path, database_url=url)


def test_a_home_of_nobody_is_refused(tmp_path: Path) -> None:
    assert "~nobody-here is the home directory of nobody" in refused(tmp_path, home="~nobody-here")


@given(st.text(min_size=1, max_size=12), st.sampled_from(["redis://:{}@h/0", "postgresql://u:{}@h/db", "{}", "u:{}@h"]))
def test_whatever_the_password_it_is_not_shown(password: str, form: str) -> None:
    secret = f"S3CRET{password}S3CRET"
    assert "S3CRET" not in safe_url(form.format(secret))
    name = "database_url" if "postgres" in form else "redis_url"
    said = ""
    try:
        Settings(**{name: form.format(secret)})  # type: ignore[arg-type]  # a URL, whichever of them
    except ConfigurationError as why:
        said = str(why)
    assert "S3CRET" not in said
