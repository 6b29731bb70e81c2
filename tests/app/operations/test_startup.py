"""What hinders a start is said in one sentence that names the setting, and never repeats its value."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives import serialization as form
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

from app.core.config import Settings, StartError, get_settings
from app.core.db import Database
from app.evidence import signing
from app.operations import agreement, listening, migrate, startup, sweepers
from lethe.cli.main import commands
from tests.conftest import POSTGRES
from tests.support import Account, scratch_database

VALUE = "gh7-not-to-be-repeated"


@contextmanager
def refused(setting: str, text: str = "") -> Iterator[None]:
    with pytest.raises(StartError) as caught:
        yield
    said = str(caught.value)
    assert setting in said
    assert re.search(text, said), said
    assert VALUE not in said
    assert "\n" not in said
    assert len(said) < 300


# -- settings that are wrong by themselves ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("database_url", f"{VALUE}", "must be postgresql://"),
        ("database_url", f"mysql://u:{VALUE}@h/d", "must be postgresql://"),
        ("database_url", f"postgresql+{VALUE}://u@h/d", "must be postgresql://"),
        ("database_url", f"sqlite:///{VALUE}.db", "must be postgresql://"),
        ("database_url", f"postgresql://u:p@h:{VALUE}/d", "must be postgresql://"),
        ("database_url", f"https://{VALUE}", "must be postgresql://"),
        ("database_url", f"postgresql://u@h/d?options={VALUE}", "-c NAME=VALUE"),
        ("database_url", "postgresql://u@h/d?options=-c%20search_path", "-c NAME=VALUE"),
        ("broker_url", f"{VALUE}:6379", "must be redis://"),
        ("broker_url", f"localhost:6379/{VALUE}", "must be redis://"),
        ("broker_url", f"amqp://u:{VALUE}@h", "must be redis://"),
        ("broker_url", f"redis://h/{VALUE}", "must be redis://"),
        ("broker_url", f"redis://h:{VALUE}/0", "must be redis://"),
        ("broker_url", f"redis://[::1/{VALUE}", "must be redis://"),
        ("blob_url", f"https://{VALUE}", "must be s3://"),
        ("blob_url", f"s3://{VALUE.upper()}", "must be s3://"),
        ("blob_url", f"s3://bucket/{VALUE}?versions", "must be s3://"),
        ("s3_endpoint", f"minio:{VALUE}", "must be http"),
        ("s3_endpoint", f"http://u:{VALUE}@minio", "must be http"),
        ("port", VALUE, "integer"),
        ("port", "70000", "65535"),
        ("kinds", VALUE, "ingest"),
        ("webhook_networks", f"10.0.0.0/8,{VALUE}", "network"),
        ("devices", f"cpu,{VALUE}", "cuda"),
        ("device", f"gpu:{VALUE}", "cuda"),
        ("log_format", VALUE, "json"),
        ("log_name", f"a {VALUE}", "name of new transparency logs"),
        ("problem_base", VALUE, "URI"),
        ("lease_seconds", VALUE, "number"),
        ("max_json_bytes", "-1", "greater"),
    ],
)
def test_a_wrong_setting_is_named_and_not_repeated(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("app.core.config.SECRETS_DIR", tmp_path)
    monkeypatch.setenv(f"LETHE_{name.upper()}", value)
    with refused(f"LETHE_{name.upper()}", words):
        get_settings()


def test_a_file_of_a_setting_that_is_no_text_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.core.config.SECRETS_DIR", tmp_path)
    (tmp_path / "lethe_secret").write_bytes(b"\xff\xfe" + VALUE.encode("utf-16-le"))
    with refused("settings"):
        get_settings()


def test_what_platforms_leave_around_values_is_no_part_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret of Kubernetes made with `echo` ends in a line feed."""
    for name, value in {
        "DATABASE_URL": "postgresql://u@h/d\n",
        "BROKER_URL": " redis://h/0\n",
        "S3_SECRET_KEY": "key\n",
        "S3_ACCESS_KEY": "id \n",
        "API_KEY": "lethe_a_b\r\n",
        "HOST": "[::1]",
        "PORT": "",
    }.items():
        monkeypatch.setenv(f"LETHE_{name}", value)
    found = Settings()
    assert found.database_url == "postgresql+psycopg://u@h/d"
    assert (found.broker_url, found.s3_access_key) == ("redis://h/0", "id")
    assert (found.s3_secret_key.get_secret_value(), found.api_key.get_secret_value()) == ("key", "lethe_a_b")
    assert (found.host, found.port) == ("::1", 8321)


@pytest.mark.parametrize("link", ["tcp://10.96.0.7:8321", "udp://10.96.0.7:53", "sctp://[fd00::7]:1"])
def test_service_links_of_every_protocol_are_no_port(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORT", "SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8321_TCP", "PORT_8321_TCP_ADDR"):
        monkeypatch.setenv(f"LETHE_{name}", link)
    assert Settings().port == 8321


# -- the signing key -------------------------------------------------------------------------------


def pem(key: object) -> str:
    given: bytes = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())  # type: ignore[attr-defined]
    return given.decode()


@pytest.mark.parametrize(
    "key",
    [
        lambda: pem(rsa.generate_private_key(65537, 2048)),
        lambda: pem(ec.generate_private_key(ec.SECP256R1())),
        lambda: VALUE,
        lambda: f"-----BEGIN PRIVATE KEY-----\n{VALUE}\n-----END PRIVATE KEY-----",
        lambda: pem(Ed25519PrivateKey.generate()).replace("PRIVATE", "PUBLIC"),
        lambda: "/keys/signing.pem",
    ],
)
def test_a_key_that_cannot_sign_names_its_setting(key: object, tmp_path: Path) -> None:
    with refused("LETHE_SIGNING_KEY", "Ed25519|PKCS #8"):
        signing.load(key(), tmp_path)  # type: ignore[operator]
    (tmp_path / signing.KEY_FILE).write_text(key())  # type: ignore[operator]
    with refused(signing.KEY_FILE, "Ed25519|PKCS #8"):
        signing.load("", tmp_path)


def test_a_key_in_one_line_is_taken(tmp_path: Path) -> None:
    """Files of variables hold no line feeds."""
    given = pem(Ed25519PrivateKey.generate())
    for written in (given.replace("\n", "\\n"), given.replace("\n", "\r\n"), f"  {given}\n\n"):
        assert signing.load(written, tmp_path).id == signing.load(given, tmp_path).id


# -- the database ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"postgresql://u:{VALUE}@127.0.0.1:1/d", "no database answers"),
        (f"postgresql://u:{VALUE}@no-such-host.invalid/d", "host .* not known"),
        (f"postgresql://u:{VALUE}@/d?host=/{VALUE}", "no database answers"),
        (f"postgresql://u@127.0.0.1:1/d?{VALUE.replace('-', '')}=1", "parameter"),
    ],
)
def test_a_database_that_cannot_be_reached_is_named(url: str, words: str, tmp_path: Path) -> None:
    with refused("LETHE_DATABASE_URL", words):
        startup.check(Settings(data_dir=tmp_path, database_url=url))


@pytest.mark.services
def test_what_a_server_refuses_is_said(tmp_path: Path) -> None:
    with scratch_database(POSTGRES) as url:
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("DROP ROLE IF EXISTS lethe_guest")
            admin.execute("CREATE ROLE lethe_guest LOGIN")
            admin.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        try:
            head, _, name = url.rpartition("/")
            guest = head.replace("postgres@", "lethe_guest@")
            cases = [
                (f"{head}/{VALUE}", "no such database"),
                (head.replace("postgres@", f"{VALUE}@") + f"/{name}", "user or password"),
                (f"{guest}/{name}", "create tables"),
                (f"{url}?options=-c%20search_path%3Dnowhere", "schema .* not there"),
                (f"{url}?options=-c%20transaction_read_only%3Don", "read-only"),
                (f"{url}?options=-c%20{VALUE.replace('-', '')}%3D1", "options"),
                (f"{url}?options=-c%20shared_buffers%3D1", "options"),
                (f"{url}?sslmode=require", "encrypted"),
            ]
            for address, words in cases:
                with refused("LETHE_DATABASE_URL", words), startup.plain():
                    database = Database(Settings(data_dir=tmp_path, database_url=address))
                    try:
                        migrate.migrate(database)
                    finally:
                        database.close()
        finally:
            with psycopg.connect(url, autocommit=True) as admin:
                admin.execute("DROP ROLE lethe_guest")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "lethe.db").write_bytes(b"no database at all" * 100)
    with refused("LETHE_DATA_DIR", "no database"):
        startup.check(Settings(data_dir=tmp_path))
    (tmp_path / "lethe.db").unlink()
    (tmp_path / "lethe.db").mkdir()
    with refused("LETHE_DATA_DIR", "cannot be opened"):
        startup.check(Settings(data_dir=tmp_path))


def test_a_data_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in ("file", "file/below"):
        with pytest.raises(StartError, match="file"):
            startup.check(Settings(data_dir=tmp_path / folder))
        with refused("LETHE_DATA_DIR"):
            startup.writable(tmp_path / folder)


# -- where it listens ------------------------------------------------------------------------------


def test_a_port_in_use_and_a_host_of_others_are_named() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with refused("LETHE_PORT", "in use"), listening.opened(Settings(port=port)):
            pass
    for host in ("192.0.2.1", "2001:db8::1"):
        with refused("LETHE_HOST"), listening.opened(Settings(host=host, port=0)):
            pass
    for host in (f"{VALUE}.invalid", "a" * 300, "300.1.1.1"):
        with pytest.raises(StartError, match="LETHE_HOST"), listening.opened(Settings(host=host, port=0)):
            pass


@pytest.mark.parametrize(("host", "client"), [("::1", "::1"), ("[::1]", "::1"), ("::", "127.0.0.1"), ("::", "::1")])
def test_ipv6_is_listened_on_and_all_of_it_takes_ipv4_too(host: str, client: str) -> None:
    with listening.opened(Settings(host=host, port=0)) as place:
        port = place.getsockname()[1]
        assert listening.address(place) == f"http://[::1]:{port}"
        socket.create_connection((client, port), 5).close()


# -- settings that must agree ----------------------------------------------------------------------


def test_parts_with_other_secrets_do_not_start(settings: Settings, database: Database, tmp_path: Path) -> None:
    """As seen: nobody noticed, and what was erased under one secret was taken in again under the other."""
    first = settings.model_copy(update={"secret": Settings(secret="first").secret})
    agreement.check(database, first)
    agreement.check(database, first)
    for other in ({"secret": VALUE}, {"secret": "first\n"}, {"data_dir": tmp_path / "elsewhere"}):
        with refused("LETHE_SECRET"):
            agreement.check(
                database,
                first.model_copy(
                    update=dict(Settings(**other)) if "secret" not in other else {"secret": Settings(**other).secret}
                ),
            )


def test_the_first_part_may_have_its_secret_in_a_file(settings: Settings, database: Database, tmp_path: Path) -> None:
    agreement.check(database, settings)
    word = (settings.data_dir / "secret").read_text().strip()
    elsewhere = Settings(data_dir=tmp_path / "b", secret=word)
    agreement.check(database, settings.model_copy(update={"secret": elsewhere.secret}))
    (settings.data_dir / "secret").write_text("\n")
    from app.core.config import _secret_of

    _secret_of.cache_clear()
    with refused("LETHE_SECRET", "empty"):
        agreement.check(database, settings)


def test_a_secret_is_changed_with_the_earlier_ones_beside_it(settings: Settings, database: Database) -> None:
    def having(secret: str, earlier: str = "") -> Settings:
        given = Settings(secret=secret, earlier_secrets=earlier)
        return settings.model_copy(update={"secret": given.secret, "earlier_secrets": given.earlier_secrets})

    agreement.check(database, having("one"))
    with refused("LETHE_SECRET"):
        agreement.check(database, having("two"))
    agreement.check(database, having("two", "one"))
    with refused("LETHE_SECRET"):
        agreement.check(database, having("one"))
    with refused("LETHE_EARLIER_SECRETS", "lacks"):
        agreement.check(database, having("two"))
    with refused("LETHE_SECRET", "earlier secret"):
        agreement.check(database, having("one", "two"))
    agreement.check(database, having("three", " two , one,one "))
    agreement.check(database, having("three", "one,two"))
    with refused("LETHE_EARLIER_SECRETS", "lacks"):
        agreement.check(database, having("three", "two"))


def test_the_check_value_does_not_tell_the_secret(settings: Settings, database: Database) -> None:
    agreement.check(database, settings)
    with database.read() as session:
        recorded = agreement._recorded(session, agreement.SECRET)
    assert len(recorded) == 1
    assert recorded[0] != settings.secret_bytes().decode()
    assert len(recorded[0]) == 64


def test_parts_with_other_storage_do_not_start(settings: Settings, database: Database) -> None:
    there = settings.model_copy(update={"blob_url": "s3://bucket/prefix"})
    agreement.check(database, there)
    agreement.check(database, there.model_copy(update={"blob_url": "s3://bucket/prefix/"}))
    for url in ("", "s3://bucket", "s3://other/prefix"):
        with refused("LETHE_BLOB_URL", "storage-moved"):
            agreement.check(database, there.model_copy(update={"blob_url": url}))
    agreement.move_storage(database, settings)
    agreement.check(database, settings)
    with refused("LETHE_BLOB_URL"):
        agreement.check(database, there)


def test_of_two_first_parts_one_is_refused(settings: Settings, database: Database) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def begin(secret: str) -> str:
        try:
            agreement.check(database, settings.model_copy(update={"secret": Settings(secret=secret).secret}))
        except StartError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(begin, ["a", "b", "c", "d"]))
    assert sorted(map(bool, said)) == [False, True, True, True]


# -- the commands ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", [["api"], ["sweep"], ["worker"], ["backup", "there"], ["check"], ["erasures", "export", "f"]]
)
def test_every_part_compares_its_secret(
    command: list[str], account: Account, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LETHE_DATA_DIR", str(account.settings.data_dir))
    if account.settings.database_url:
        monkeypatch.setenv("LETHE_DATABASE_URL", account.settings.database_url)
    monkeypatch.setenv("LETHE_SECRET", VALUE)
    done = CliRunner().invoke(commands(), command)
    assert done.exit_code == 1
    assert "LETHE_SECRET is not the one" in done.stderr
    assert VALUE not in done.output


# -- a sweeper that died ---------------------------------------------------------------------------


def test_readiness_says_that_no_sweeper_is_alive(account: Account) -> None:
    """As seen: with a signing key of another kind it died at every start, while the service said that it was ready."""
    account.http.app.state.parts.since -= 30  # type: ignore[attr-defined]
    assert any("no sweeper" in line for line in account.get("/readyz")["degraded"])
    sweepers.say(account.database, account.settings)
    assert not any("sweeper" in line for line in account.get("/readyz")["degraded"])
    assert "lethe_sweepers 1.0" in account.http.get("/metrics").text
    sweepers.leave(account.database, account.settings)
    assert any("no sweeper" in line for line in account.get("/readyz")["degraded"])
