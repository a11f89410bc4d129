"""Settings, and the URLs derived from them."""

from pathlib import Path

import pytest

from skillfleet.errors import SettingsError
from skillfleet_ledger import Settings
from skillfleet_ledger.settings import celery_url
from skillfleet_producer import Fleet
from skillfleet_worker.settings import WorkerSettings


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"SKILLFLEET_{name.upper()}", raising=False)


def test_defaults_stand_without_any_variable() -> None:
    settings = Settings.load()
    assert settings.ledger_url == "redis://127.0.0.1:6379/0"
    assert settings.broker_is_ledger
    assert settings.celery_broker_url == settings.ledger_url
    assert settings.keyspace.broker_prefix == ""


def test_the_environment_wins_over_defaults_and_arguments_over_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SKILLFLEET_NAMESPACE", "from-env")
    monkeypatch.setenv("SKILLFLEET_MAX_EVENTS", "500")
    settings = Settings.load(namespace="argument")
    assert (settings.namespace, settings.max_events) == ("argument", 500)
    assert Settings.load().namespace == "from-env"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("REDIS_URL", "http://127.0.0.1"),
        ("NAMESPACE", "a b"),
        ("NAMESPACE", "{x}"),
        ("SHARDS", "0"),
        ("REDIS_TIMEOUT_SECONDS", "0"),
        ("REDIS_TIMEOUT_SECONDS", "inf"),
        ("REDIS_TIMEOUT_SECONDS", "nan"),
        ("RETENTION_SECONDS", "1e300"),
        ("RETENTION_SECONDS", "soon"),
        ("DEFAULT_QUEUE", "a:b"),
        ("MAX_EVENTS", "1"),
        ("MAX_ARTIFACTS", "0"),
        ("MAX_DELIVERIES", "0"),
    ],
)
def test_a_bad_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(f"SKILLFLEET_{variable}", value)
    with pytest.raises(SettingsError, match=f"SKILLFLEET_{variable}"):
        Settings.load()


def test_all_bad_values_are_named_at_once_and_no_secret_is_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load(redis_url="http://user:hunter2@host", shards="many")
    assert "SKILLFLEET_REDIS_URL" in str(caught.value)
    assert "SKILLFLEET_SHARDS" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_show_passwords() -> None:
    settings = Settings.load(
        redis_url="redis://:hunter2@host",
        broker_url="amqp://u:hunter2@host",
        redis_password="hunter2",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


def test_settings_are_frozen() -> None:
    settings = Settings.load()
    with pytest.raises(ValueError, match="frozen"):
        settings.namespace = "other"


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"redis_password": "p@ss/word"}, "redis://:p%40ss%2Fword@127.0.0.1:6379/0"),
        (
            {"redis_username": "fleet", "redis_password": "x"},
            "redis://fleet:x@127.0.0.1:6379/0",
        ),
        (
            {"redis_url": "redis://a:b@host:1/2", "redis_password": "other"},
            "redis://a:b@host:1/2",
        ),
        (
            {"redis_url": "unix:///run/redis.sock?db=2", "redis_password": "x"},
            "unix://:x@/run/redis.sock?db=2",
        ),
        (
            {"redis_url": "rediss://host/1", "redis_ca_file": Path("/ca.pem")},
            "rediss://host/1?ssl_ca_certs=%2Fca.pem",
        ),
        (
            {"redis_url": "rediss://host/1?protocol=2", "redis_ca_file": Path("/ca.pem")},
            "rediss://host/1?protocol=2&ssl_ca_certs=%2Fca.pem",
        ),
        ({"redis_url": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
        ({"redis_ca_file": Path("/ca.pem")}, "redis://127.0.0.1:6379/0"),
    ],
)
def test_credentials_and_authority_complete_the_url(values: dict[str, object], url: str) -> None:
    assert Settings.load(**values).ledger_url == url


def test_a_separate_broker_is_distinguished_from_the_ledger() -> None:
    separate = Settings.load(broker_url="amqp://guest@127.0.0.1//")
    assert not separate.broker_is_ledger
    assert separate.celery_broker_url == "amqp://guest@127.0.0.1//"
    same = Settings.load(broker_url="redis://127.0.0.1:6379/0")
    assert same.broker_is_ledger


def test_celery_gets_a_unix_socket_in_its_own_form() -> None:
    assert celery_url("unix:///run/r.sock?db=3") == "redis+socket:///run/r.sock?virtual_host=3"
    assert celery_url("unix://:x@/r.sock") == "redis+socket://:x@/r.sock"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "?ssl_cert_reqs=CERT_REQUIRED"),
        ("?ssl_cert_reqs=none", "?ssl_cert_reqs=CERT_NONE"),
        ("?ssl_cert_reqs=CERT_OPTIONAL", "?ssl_cert_reqs=CERT_OPTIONAL"),
        ("?ssl_ca_certs=%2Fca.pem", "?ssl_ca_certs=%2Fca.pem&ssl_cert_reqs=CERT_REQUIRED"),
    ],
)
def test_celery_gets_the_check_of_certificates(query: str, expected: str) -> None:
    assert celery_url(f"rediss://host/1{query}") == f"rediss://host/1{expected}"


def test_a_namespace_of_its_own_prefixes_the_brokers_keys() -> None:
    keys = Settings.load(namespace="blue").keyspace
    assert keys.broker_list("celery", 0) == "blue:celery"
    assert keys.broker_list("celery", 6) == "blue:celery\x06\x166"
    assert keys.result_key("r1") == "blue:celery-task-meta-r1"


SECRET = "hunter2"
BAD_URLS = [
    (f"redis://:{SECRET}#x@h:1/0", "%23"),
    ("redis://:12#34@h:6379/0", "%23"),
    (f"redis://:{SECRET}?x@h:1/0", "%3F"),
    ("redis://:12?34@h:6379/0", "%3F"),
    (f"redis://:{SECRET}/x@h:1/0", "%2F"),
    ("redis://:12/34@h:6379/0", "%2F"),
    (f"redis://:{SECRET}%ss@h/0", "%25"),
    (f"redis://:{SECRET}%@h/0", "%25"),
    (f"redis://:{SECRET}%ff@h/0", "UTF-8"),
    (f"redis://:{SECRET}\udcff@h/0", "not printed"),
    (f"redis://:{SECRET}\u2100@h/0", "host"),
    (f"redis://:{SECRET}[x@h:1/0", "%5B"),
    ("redis://h:99999/0", "port"),
    ("redis://h:0/0", "port"),
    ("redis://h:-1/0", "port"),
    ("redis://h:port/0", "port"),
    ("redis://h: 6379/0", "space"),
    ("redis://h:6379/0\n", "line's end"),
    ("redis://h\x00:6379/0", "not printed"),
    ("redis://[::1:6379/0", "brackets"),
    ("redis://::1]:6379/0", "brackets"),
    ("redis://::1:6379/0", "port"),
    ("unix://run/redis.sock", "three slashes"),
    ("unix://", "three slashes"),
    ("127.0.0.1:6379", "must start with one of redis://"),
    ("redis:/h", "must start with"),
    ("h", "must start with"),
    (" ", "must start with"),
    ("", "must start with"),
]


@pytest.mark.parametrize(("url", "advice"), BAD_URLS)
def test_a_url_that_means_something_else_is_refused_with_advice(url: str, advice: str) -> None:
    for field in ("redis_url", "broker_url"):
        with pytest.raises(SettingsError) as caught:
            Settings.load(**{field: url})
        assert str(caught.value).startswith(f"SKILLFLEET_{field.upper()}: ")
        assert SECRET not in str(caught.value)
        assert advice in str(caught.value) or field == "broker_url"
    with pytest.raises(SettingsError, match=r"^url: ") as reported:
        Fleet(url)
    assert advice in str(reported.value)
    assert SECRET not in str(reported.value)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://user:p%23w@127.0.0.1:5672/host;amqp://[::1]:5672//",
        "sentinel://one:26379;sentinel://two:26379",
        "sqs://",
        "redis+socket:///run/redis.sock?virtual_host=1",
        "rediss://:p%40w@h:6379/1?ssl_cert_reqs=none",
    ],
)
def test_a_brokers_url_may_have_every_form_of_celerys(url: str) -> None:
    assert Settings.load(broker_url=url).broker_url == url


@pytest.mark.parametrize("url", ["amqp://a#b@h//", "amqp://h:99999//", "amqp://a;amqp://b c"])
def test_each_url_of_a_broker_is_checked(url: str) -> None:
    with pytest.raises(SettingsError, match="SKILLFLEET_BROKER_URL"):
        Settings.load(broker_url=url)


def test_a_check_of_several_settings_names_them_itself() -> None:
    with pytest.raises(SettingsError, match=r"^SKILLFLEET_METRICS needs"):
        WorkerSettings.load(metrics=True)
