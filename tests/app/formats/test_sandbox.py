"""Untrusted bytes are looked at in a child: whatever it does, the caller lives and gets a refusal in words."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest

from app.formats import sandbox
from app.formats.manifest import SourceError
from app.formats.sandbox import Limits

HERE = "tests.app.formats.test_sandbox"


def doubled(values: list[int]) -> list[int]:
    return [2 * value for value in values]


def refuses() -> None:
    raise SourceError("it is wrong", ["row 1: so"])


def aborts() -> None:
    os.abort()


def exits() -> None:
    os._exit(3)


def is_ended() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def hangs() -> None:
    while True:
        pass


def grows() -> int:
    return len(b"x" * 2**29)


def writes(path: str) -> None:
    Path(path).write_bytes(b"x" * 2**16)


def tried() -> list[str]:
    """What a parser has no business with: a network, another program, the service's settings."""
    found = []
    for name, attempt in {"socket": socket.socket, "program": lambda: subprocess.run(["true"], check=False)}.items():
        try:
            attempt()
        except PermissionError:
            found.append(name)
    return [*found, *(["environment"] if not os.environ else [])]


def test_a_result_comes_back() -> None:
    assert sandbox.call(f"{HERE}:doubled", [1, 2]) == [2, 4]


def test_a_refusal_comes_back_as_it_was_raised() -> None:
    with pytest.raises(SourceError, match="it is wrong") as refused:
        sandbox.call(f"{HERE}:refuses")
    assert refused.value.errors == ["row 1: so"]


@pytest.mark.parametrize(
    ("name", "limits", "seconds", "words"),
    [
        ("aborts", Limits(), 60.0, "crashed (SIGABRT)"),
        ("hangs", Limits(cpu_seconds=1), 60.0, "more than 1 seconds of a processor"),
        ("hangs", Limits(), 0.5, "took longer than"),
        ("grows", Limits(memory=2**28), 60.0, "takes more than"),
        ("grows", Limits(memory=2**24), 60.0, "takes more than"),  # less than the libraries themselves take
    ],
)
def test_a_child_that_dies_hangs_or_grows_is_a_refusal(name: str, limits: Limits, seconds: float, words: str) -> None:
    with pytest.raises(SourceError) as refused:
        sandbox.call(f"{HERE}:{name}", limits=limits, seconds=seconds)
    assert words in refused.value.detail


def test_a_child_writes_no_more_than_it_may(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"failed \(OSError\)"):
        sandbox.call(f"{HERE}:writes", str(tmp_path / "large"), limits=Limits(file_bytes=2**12))


def test_a_child_has_neither_network_nor_programs_nor_the_services_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LETHE_SECRET", "not for parsers")
    assert sandbox.call(f"{HERE}:tried") == ["socket", "program", "environment"]


def test_the_log_says_once_which_walls_are_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sandbox, "_told", set())
    with caplog.at_level("INFO", "lethe.sandbox"):
        for _ in range(2):
            sandbox.call(f"{HERE}:doubled", [1])
        sandbox._tell({"memory": True, "network": False})
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    assert "and without a network" in caplog.messages[0]
    assert caplog.messages[1].endswith("no wall for: network")


def environ() -> str:
    """What the process was started with, which clearing `os.environ` does not change."""
    return Path("/proc/self/environ").read_text()


def test_a_child_was_not_started_with_the_services_secret() -> None:
    code = f"from app.formats import sandbox; print('not for' in sandbox.call('{HERE}:environ'))"
    secret = os.environ | {"LETHE_SECRET": "not for parsers"}
    done = subprocess.run([sys.executable, "-c", code], env=secret, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["exits", "is_ended"])
def test_what_the_machine_does_to_a_child_is_no_verdict_on_the_file(name: str) -> None:
    with pytest.raises(sandbox.SandboxError):
        sandbox.call(f"{HERE}:{name}")


class _Keys(pe.KmsClient):
    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return wrapped_key


def one_encrypted_column(path: Path) -> Path:
    """Ids that need a key, in a file whose directory is plain: pyarrow aborts when it is asked for that column."""
    table = pa.table({"id": ["a", "b"], "image": [b"1", b"2"], "label": [0, 1]})
    config = pe.EncryptionConfiguration(footer_key="f", column_keys={"c": ["id"]}, plaintext_footer=True)
    factory = pe.CryptoFactory(lambda _connection: _Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    return path


def test_a_file_that_ends_its_reader_is_refused(tmp_path: Path) -> None:
    path = one_encrypted_column(tmp_path / "one.parquet")
    arguments: list[Any] = [str(path), {}, ["parquet"], None, True]
    with pytest.raises(SourceError, match=r"crashed \(SIGABRT\)"):
        sandbox.call("app.formats.uploads:refuse_unfit", *arguments)
