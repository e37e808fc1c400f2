"""Settings: which source wins, what is refused, and that no message or repr shows a password."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from stageflow_durable.errors import ConfigurationError
from stageflow_durable.settings import Settings, Urls, load_settings, safe_url

DATABASE = "postgresql+psycopg://shop:s3cret@db/shop"
BROKER = "redis://:s3cret@broker:6379/0"
BOTH = {"STAGEFLOW_DATABASE_URL": DATABASE, "STAGEFLOW_BROKER_URL": BROKER}


def load(tmp_path: Path, environment: dict[str, str] | None = None, /, **keywords: object) -> Settings:
    return load_settings(environment=environment or {}, directory=tmp_path, **keywords)


def write_pyproject(directory: Path, *lines: str) -> None:
    (directory / "pyproject.toml").write_text("\n".join(["[tool.stageflow]", *lines]))


# --- sources ---------------------------------------------------------------------------------------------------------


def test_given_nothing_then_the_defaults_hold(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.lease_seconds, settings.max_recoveries) == (10.0, 5)
    assert not settings.queue, "an engine names its queue after itself"
    assert (settings.sweep_seconds, settings.visibility_timeout) == (1.0, 3600)
    assert settings.home == Path.cwd() / ".stageflow"
    assert settings.database_url is settings.broker_url is settings.redis_url is None


def test_given_all_sources_then_keyword_wins_over_environment_over_pyproject(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "lease_seconds = 3", "max_recoveries = 3", "queue = 'three'")
    environment = {"STAGEFLOW_LEASE_SECONDS": "4", "STAGEFLOW_MAX_RECOVERIES": "4"}
    settings = load(tmp_path, environment, lease_seconds=timedelta(seconds=5))
    assert (settings.lease_seconds, settings.max_recoveries, settings.queue) == (5.0, 4, "three")


def test_given_a_pyproject_above_then_it_counts_and_its_home_is_relative_to_it(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "home = 'state'", "app = 'shop:engine'")
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    settings = load(inner)
    assert (settings.home, settings.app) == (tmp_path / "state", "shop:engine")


@pytest.mark.parametrize(("word", "on"), [("off", False), (" Off ", False), ("0", False), ("TRUE", True), ("on", True)])
def test_given_a_switch_then_words_for_on_and_off_are_read_and_passed_on(tmp_path: Path, word: str, on: bool) -> None:
    settings = load(tmp_path, {"STAGEFLOW_MESSAGE_TEMPLATES": word})
    assert settings.message_templates is on
    assert load(tmp_path, settings.environment()) == settings


def test_given_an_empty_variable_or_a_none_keyword_then_the_next_source_counts(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "queue = 'from-file'")
    assert load(tmp_path, {"STAGEFLOW_QUEUE": " "}, queue=None).queue == "from-file"


def test_given_the_process_environment_then_it_is_the_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STAGEFLOW_QUEUE", "mine")
    monkeypatch.chdir(tmp_path)
    assert load_settings().queue == "mine"


@pytest.mark.parametrize("text", ["[tool", "[tool]\nstageflow = 3"])
def test_given_a_broken_pyproject_then_the_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml"):
        load(tmp_path)


def test_given_settings_then_their_environment_loads_them_again(tmp_path: Path) -> None:
    settings = load(tmp_path, BOTH, redis_url="off", lease_seconds=2.5, app="shop:engine", audit_key="k" * 16)
    assert load(tmp_path, settings.environment()) == settings


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql+psycopg://h/d?sslmode=require", "postgresql+psycopg://h/d?sslmode=require"),
        ("sqlite:////var/lib/stageflow.db", "sqlite:////var/lib/stageflow.db"),
        ("sqlite+pysqlite:////a.db?timeout=3", "sqlite:////a.db?timeout=3"),
        ("sqlite:///file:/a.db?mode=rw&uri=true", "sqlite:///file:/a.db?mode=rw&uri=true"),
    ],
)
def test_given_a_supported_database_then_its_url_has_one_form(tmp_path: Path, given: str, stored: str) -> None:
    assert load(tmp_path, database_url=given).database_url == stored


def test_given_a_relative_sqlite_file_then_it_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(tmp_path, database_url="sqlite:///a.db").database_url == f"sqlite:///{tmp_path}/a.db"


@pytest.mark.parametrize(
    ("broker", "redis", "claims"),
    [
        (BROKER, None, BROKER),
        ("valkey://h:1/2", None, "redis://h:1/2"),
        ("rediss://h", None, "rediss://h"),
        ("redis://a;redis://b", None, None),
        ("amqp://u:p@h//", None, None),
        ("amqp://u:p@h//", "redis://claims", "redis://claims"),
        (BROKER, "off", None),
    ],
)
def test_given_a_broker_then_claims_are_kept_there_if_it_speaks_redis(
    tmp_path: Path, broker: str, redis: str | None, claims: str | None
) -> None:
    assert load(tmp_path, broker_url=broker, redis_url=redis).redis_url == claims


@pytest.mark.parametrize(("lease", "sweep"), [(2, 0.5), (3.0, 0.75), (10, 1.0)])
def test_given_a_lease_then_sweeps_come_four_times_as_often_and_at_least_each_second(
    tmp_path: Path, lease: float, sweep: float
) -> None:
    assert load(tmp_path, lease_seconds=lease).sweep_seconds == sweep


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("database_url", "mysql://root:s3cret@h/d", "mysql:// is not supported"),
        ("database_url", "postgresql+asyncpg://u:s3cret@h/d", "postgresql+psycopg"),
        ("database_url", "shop.db", "not a URL"),
        ("database_url", "sqlite://", "in memory"),
        ("database_url", "sqlite:///:memory:", "in memory"),
        ("database_url", "sqlite:///file:x?mode=memory&uri=true", "in memory"),
        ("database_url", "sqlite://shop.db", "three slashes"),
        ("database_url", 7, "must be text, not int"),
        ("broker_url", "kafka://u:s3cret@h", "kafka:// is not supported"),
        ("redis_url", "amqp://h", "amqp:// is not supported"),
        ("lease_seconds", "1.9", "at least 2"),
        ("lease_seconds", "10s", "not a number of seconds; write for example 10"),
        ("lease_seconds", "nan", "finite"),
        ("lease_seconds", True, "not bool"),
        ("lease_seconds", timedelta(hours=2), "at most 3600"),
        ("sweep_seconds", 0, "more than 0"),
        ("max_recoveries", "2.5", "whole number from 1"),
        ("max_recoveries", 0, "whole number from 1"),
        ("queue", "a b", "queue's name"),
        ("sqlite_synchronous", "off", "FULL, NORMAL, EXTRA"),
        ("message_templates", "perhaps", "on or off"),
        ("audit_key", "s3cret", "at least 16"),
        ("old_audit_keys", "a key of some length,s3cret", "at least 16"),
        ("redact", "iban, b orn", "no name of a field"),
        ("notify", "", "must be the URL of a webhook, or a command"),
        ("notify", [], "must be the URL of a webhook, or a command"),
        ("notify", ["mail", 7], "must be the URL of a webhook, or a command"),
        ("notify", "[mail", "begins like a list, and is no JSON"),
        ("notify", "mail 'ops", "No closing quotation"),
        ("notify", "https://me:hunter22@hooks.test/", "must be http:// or https://"),
        ("notify", 7, "must be text, not int"),
        ("notify_secret", "short", "at least 16 characters"),
        ("redact", ["iban", ""], "no name of a field"),
        ("redact", ["iban", 7], "must be text, not int"),
        ("redact", 7, "must be text, not int"),
        ("app", "shop/engine.py", "module:attribute"),
    ],
)
def test_given_a_bad_value_then_the_message_names_it_and_the_way_out(
    tmp_path: Path, name: str, value: object, says: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, **{name: value})
    assert says in str(caught.value)
    assert str(caught.value).startswith(name)
    assert "s3cret" not in str(caught.value)


def test_given_several_mistakes_then_all_are_listed_with_where_they_were_made(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "queue = 'a b'\nleese_seconds = 4")
    variables = {"STAGEFLOW_LEASE_SECONDS": "1", "STAGEFLOW_DATABASE_ULR": "sqlite:///a.db"}
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, variables, max_recoveries=0, visibility_timeout=3, quick_acks=False)
    told = str(caught.value).split("; ")
    for part in (
        "pyproject.toml [tool.stageflow] queue=",
        "pyproject.toml [tool.stageflow] leese_seconds is not a setting",
        "did you mean lease_seconds?",
        "STAGEFLOW_LEASE_SECONDS='1': ",
        "STAGEFLOW_DATABASE_ULR is not a setting",
        "max_recoveries=0: ",
        "visibility_timeout (3 s) must be more than",
    ):
        assert any(part in line for line in told), part


def test_given_a_visibility_timeout_within_one_ride_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="visibility_timeout"):
        load(tmp_path, visibility_timeout=10, quick_acks=False)
    assert load(tmp_path, visibility_timeout=10).visibility_timeout == 10  # ours do not depend on it


def test_given_settings_made_directly_then_they_are_validated_too() -> None:
    with pytest.raises(ConfigurationError, match="lease_seconds"):
        Settings(lease_seconds=1)


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STAGEFLOW_DATABSE_URL", "STAGEFLOW_DATABASE_URL"),
        ("STAGEFLOW_DB_URL", "STAGEFLOW_DATABASE_URL"),
        ("STAGEFLOW_DATABASE", "STAGEFLOW_DATABASE_URL"),
        ("STAGEFLOW_BROKER_URI", "STAGEFLOW_BROKER_URL"),
        ("STAGEFLOW_LEASE", "STAGEFLOW_LEASE_SECONDS"),
        ("STAGEFLOW_LEASE_SECS", "STAGEFLOW_LEASE_SECONDS"),
        ("STAGE_FLOW_DATABASE_URL", "STAGEFLOW_DATABASE_URL"),
        ("STAGFLOW_BROKER_URL", "STAGEFLOW_BROKER_URL"),
        ("stageflow_broker_url", "STAGEFLOW_BROKER_URL"),
    ],
)
def test_given_a_mistyped_variable_then_the_one_that_was_meant_is_named(tmp_path: Path, name: str, meant: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name} is not a setting; did you mean {meant}\?"):
        load(tmp_path, {name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        "STAGEFLOW_SERVICE_HOST",
        "STAGEFLOW_SERVICE_PORT",
        "STAGEFLOW_SERVICE_PORT_HTTP",
        "STAGEFLOW_PORT",
        "STAGEFLOW_PORT_6379_TCP",
        "STAGEFLOW_PORT_6379_TCP_ADDR",
        "STAGEFLOW_PORT_53_UDP_PROTO",
        "STAGEFLOW_BROKER_SERVICE_HOST",
        "STAGEFLOW_BROKER_PORT",
        "STAGEFLOW_REDIS_PORT_6379_TCP_PORT",
        "STAGEFLOW_TEST_POSTGRES_URL",
        "STAGEFLOW_REQUIRE_SERVICES",
        "STAGEFLOW_DEMO_SPEED",
        "DATABASE_URL",
        "REDIS_URL",
        "CELERY_BROKER_URL",
        "HOME",
        "QUEUE",
    ],
)
def test_given_a_variable_of_kubernetes_or_of_others_then_it_is_left_alone(tmp_path: Path, name: str) -> None:
    assert load(tmp_path, {name: "tcp://10.0.0.1:80"}) == load(tmp_path)


def test_given_an_unknown_key_in_pyproject_then_it_is_refused_near_or_not(tmp_path: Path) -> None:
    write_pyproject(tmp_path, "lease-seconds = 3", "colour = 'red'")
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path)
    assert "[tool.stageflow] lease-seconds is not a setting; did you mean lease_seconds?" in str(caught.value)
    assert "colour is not a setting; there are: database_url" in str(caught.value)


def test_given_an_unknown_keyword_then_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="keyword databse_url is not a setting; did you mean database_url"):
        load(tmp_path, databse_url="x")


# --- where database and broker are -----------------------------------------------------------------------------------


def test_given_both_urls_then_require_answers_them(tmp_path: Path) -> None:
    settings = load(tmp_path, BOTH)
    assert settings.require() == Urls(DATABASE, BROKER, BROKER)
    assert settings.require_database() == DATABASE


def test_given_nothing_and_nothing_running_then_require_names_both_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, home=str(tmp_path)).require()
    for part in ("STAGEFLOW_DATABASE_URL", "STAGEFLOW_BROKER_URL", "stageflow up", str(tmp_path)):
        assert part in str(caught.value)


@pytest.mark.parametrize("lost", sorted(BOTH))
def test_given_one_url_lost_then_the_other_half_is_not_guessed(tmp_path: Path, lost: str) -> None:
    left = {name: value for name, value in BOTH.items() if name != lost}
    with pytest.raises(ConfigurationError, match=f"{lost} is not set"):
        load(tmp_path, left).require()


def test_given_only_a_database_then_what_needs_no_broker_works(tmp_path: Path) -> None:
    assert load(tmp_path, database_url=DATABASE).require_database() == DATABASE


# --- secrets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:s3cret@h:1/0", "redis://:***@h:1/0"),
        ("postgresql+psycopg://shop:s3c/r@et@h/d", "postgresql+psycopg://shop:***@h/d"),
        ("postgresql+psycopg://h/d?user=u&password=s3cret&x=1", "postgresql+psycopg://h/d?user=u&password=***&x=1"),
        ("sentinel://:s3cret@a:1;sentinel://:s3cret@b:2", "sentinel://:***@a:1;sentinel://:***@b:2"),
        ("postgresql+psycopg://shop@h/d", "postgresql+psycopg://shop@h/d"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("not a url", "***"),
        ("redis://:s3cret", "redis://***"),
        ("host=db password=s3cret", "***"),
    ],
)
def test_given_a_url_then_its_safe_form_hides_the_password_only(url: str, shown: str) -> None:
    assert safe_url(url) == shown


def test_given_secrets_then_neither_repr_nor_str_shows_them(tmp_path: Path) -> None:
    settings = load(
        tmp_path, BOTH, audit_key="s3cret-s3cret-s3cret", old_audit_keys="s3cret-s3cret-16,s3cret-s3cret-17"
    )
    for value in (settings, settings.require()):
        assert "s3cret" not in f"{value!r} {value}"
        assert "shop:***@db" in repr(value)


def test_given_settings_then_they_survive_pickling(tmp_path: Path) -> None:
    settings = load(tmp_path, BOTH)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_given_the_settings_imported_then_nothing_heavy_is(tmp_path: Path) -> None:
    script = """
import sys
from stageflow_durable.settings import load_settings
load_settings()
heavy = {"pydantic", "sqlalchemy", "celery", "kombu", "redis", "click"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=environment)


@pytest.mark.parametrize("given", ["iban, Born", ["iban", "Born"], ("iban", " Born ")])
def test_names_to_redact_are_a_text_or_a_list(tmp_path: Path, given: object) -> None:
    assert load(tmp_path, redact=given).redact == "iban,Born"


def test_names_to_redact_may_stand_in_pyproject_and_reach_child_processes(tmp_path: Path) -> None:
    write_pyproject(tmp_path, 'redact = ["iban", "born"]')
    assert load(tmp_path).environment()["STAGEFLOW_REDACT"] == "iban,born"


# --- who is told ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [["mail-ops", "--to", "a b"], '["mail-ops", "--to", "a b"]', "mail-ops --to 'a b'"])
def test_a_command_to_be_told_is_a_list_or_text_and_reaches_child_processes(tmp_path: Path, given: object) -> None:
    found = load(tmp_path, notify=given)
    assert found.notify == '["mail-ops", "--to", "a b"]'
    assert load(tmp_path, notify=found.environment()["STAGEFLOW_NOTIFY"]).notify == found.notify


def test_a_webhook_to_be_told_takes_a_secret_and_neither_is_shown(tmp_path: Path) -> None:
    url = "https://hooks.test/T0KEN?x=1"
    with pytest.raises(ConfigurationError, match="set STAGEFLOW_NOTIFY_SECRET to what its receiver knows"):
        load(tmp_path, notify=url)
    found = load(tmp_path, notify=url, notify_secret="sixteen letters or more")
    assert found.notify == url
    assert "T0KEN" not in repr(found)
    assert "sixteen" not in repr(found)
