"""The examples of docs/bring-your-own.md, run as they stand: from what four scripts left to what they load again."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from lethe import Client
from tests.support import embedded, environment, eventually

PAGE = (Path(__file__).parents[2] / "docs" / "bring-your-own.md").read_text()
FILES = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = re.findall(r"<!-- run: (\w+) -->\n```bash\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
# torchvision's operators may not fit the installed torch; the scripts of a reader have one that does.
PREAMBLE = "from engine.data.torchvision_ops import import_torchvision\nimport_torchvision()\n"
IMPORTS = re.compile("^(from|import) (torchvision|timm|transformers)", re.MULTILINE)


def test_no_example_of_the_page_is_left_out() -> None:
    assert len(FILES) + len(COMMANDS) == len(re.findall("^```", PAGE, re.MULTILINE)) / 2
    assert {way for way, _ in COMMANDS} == {"data", "torchvision", "timm", "hugging_face", "own"}


@dataclass
class Reader:
    """Somebody who follows the page in a folder, beside a service."""

    folder: Path
    service: Client
    received: list[dict[str, Any]]

    def follow(self, way: str) -> list[str]:
        """Run the commands of a way; what they print."""
        code = "\n".join(commands for name, commands in COMMANDS if name == way)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        env = environment(self.folder / "lethe-data") | {"PATH": path}
        done = subprocess.run(["bash", "-euc", code], cwd=self.folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
        return done.stdout.splitlines()


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of webhooks on an address that is not public: its URL, and the bodies that reach it."""
    bodies: list[dict[str, Any]] = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taker)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", bodies
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("page")
    for name, content in FILES:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((PREAMBLE if IMPORTS.search(content) else "") + content)
    # `pip install ./our-package`, but beside this environment and without a network.
    plugins = folder / "plugins"
    quiet = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-index", "--no-build-isolation"]
    install = [sys.executable, "-m", "pip", "install", *quiet, "--target", str(plugins), str(folder / "our-package")]
    subprocess.run(install, check=True)
    with pytest.MonkeyPatch.context() as patch:
        paths = [str(plugins), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
        network = {"webhook_networks": "127.0.0.0/8"}
        with receiver() as (url, bodies), embedded(folder / "lethe-data", afresh=True, **network) as service:
            service.webhooks.create(url, ["version.*"])
            found = Reader(folder, service, bodies)
            found.follow("data")
            yield found


@pytest.mark.parametrize(
    "way",
    [
        "torchvision",
        pytest.param("timm", marks=pytest.mark.libraries),
        pytest.param("hugging_face", marks=pytest.mark.libraries),
        "own",
    ],
)
def test_from_a_training_script_to_an_unlearned_folder_that_it_loads(reader: Reader, way: str) -> None:
    said = reader.follow(way)
    model = f"{way.replace('_', '-')}-reader"
    stated = reader.service.versions.get(model, 1)["metrics"]["stated"]
    assert stated["difference"] < 0.005
    version = reader.service.versions.get(model, 2)
    assert version["origin"] == "unlearned"
    assert float(said[-1]) == pytest.approx(version["metrics"]["accuracy_test"], abs=1e-4)
    report = reader.service.versions.audit(model, 2)["report"]
    assert report["references"]["models"] == 4
    assert report["judgement"]["verdict"] in ("pass", "fail", "inconclusive")
    told = eventually(
        lambda: [each["data"] for each in reader.received if each["data"].get("digest") == version["digest"]],
        "a webhook of the version",
    )[0]
    assert (told["name"], told["number"], told["verdict"]) == (model, 2, report["judgement"]["verdict"])
    assert reader.service.get(f"/v1/versions/{told['id']}")["digest"] == version["digest"]
    assert reader.service.get(told["where"])["number"] == 2
    (request,) = reader.service.pages("/v1/deletion-requests", model=model)
    assert request["status"] == "fulfilled"
