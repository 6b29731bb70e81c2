"""A client generated from the OpenAPI document does the main job: `python -m benchmarks.generated_client`.

Not a test: the generator's requirements (typer below 0.28) do not go together with the service's own, so it gets a
virtual environment of its own, from the package index, each time. The document is taken as it is served but for one
thing: of a body that may have several binary media types the generator takes one, so only the first is left.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from sklearn.datasets import load_digits

from lethe import Client
from tests.support import QUICK_POLICY, embedded

GENERATOR = "openapi-python-client==0.29.1"
BINARY = ("application/vnd.apache.parquet", "application/vnd.safetensors", "application/x-ndjson")
CONFIG = {
    "package_name_override": "lethe_generated",
    "content_type_overrides": dict.fromkeys(BINARY, "application/octet-stream"),
}

DRIVER = """
import hashlib, sys, time
from pathlib import Path
from lethe_generated import AuthenticatedClient
from lethe_generated.api.datasets import datasets_create, datasets_list_samples, datasets_put_content, datasets_read
from lethe_generated.api.deletion_requests import deletion_requests_create, deletion_requests_read
from lethe_generated.api.jobs import jobs_read
from lethe_generated.api.models import models_create, models_references, models_train
from lethe_generated.api.versions import versions_get_audit, versions_get_checkpoint, versions_read
from lethe_generated.models import DatasetCreate, DeletionCreate, ModelCreate, Problem, ReferencesBody, TrainBody
from lethe_generated.types import File

url, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
client = AuthenticatedClient(base_url=url, token=key)


def ok(found):
    assert not isinstance(found, Problem), found
    assert found is not None
    return found


def wait(job):
    while (found := ok(jobs_read.sync(job, client=client))).state in ("queued", "running"):
        time.sleep(0.2)
    assert found.state == "succeeded", found
    return found


body = DatasetCreate.from_dict({"name": "digits", "source": {"name": "upload", "params": {}}})
dataset = ok(datasets_create.sync(client=client, body=body))
with (folder / "digits.parquet").open("rb") as file:
    sent = ok(datasets_put_content.sync(dataset.id, client=client, body=File(payload=file)))
wait(sent.job)
assert ok(datasets_read.sync(dataset.id, client=client)).state == "ready"
body = ModelCreate.from_dict(MODEL | {"dataset": dataset.id})
model = ok(models_create.sync(client=client, body=body))
wait(ok(models_train.sync(model.id, client=client, body=TrainBody(seed=1))).id)
wait(ok(models_references.sync(model.id, client=client, body=ReferencesBody(count=4))).id)
page = ok(datasets_list_samples.sync(dataset.id, client=client, page_size=30))
ids = [sample.id for sample in page.items]
assert page.next_page_token
body = DeletionCreate(dataset=dataset.id, sample_ids=ids)
request = ok(deletion_requests_create.sync(client=client, body=body, idempotency_key="k-1"))
again = ok(deletion_requests_create.sync(client=client, body=body, idempotency_key="k-1"))
assert again.id == request.id
refused = deletion_requests_create.sync(client=client, body=body)
assert isinstance(refused, Problem) and refused.status == 409, refused
while (request := ok(deletion_requests_read.sync(request.id, client=client))).status in ("processing", "published"):
    time.sleep(0.2)
assert request.status == "fulfilled", request
version = ok(versions_read.sync(model.id, request.outcomes[0].version, client=client))
response = versions_get_checkpoint.sync_detailed(model.id, version.number, client=client)
assert "sha256:" + hashlib.sha256(response.content).hexdigest() == version.digest
report = ok(versions_get_audit.sync(model.id, version.number, client=client))
print("verdict", report.report.judgement.verdict)
print("fulfilled by a generated client:", request.id)
"""


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _digits(folder / "digits.parquet")
        with embedded(folder / "data") as client:
            _generate(client, folder)
            model = {
                "name": "m",
                "architecture": {"name": "small_cnn", "params": {"width": 8}},
                "recipe": {"name": "sgd", "params": {"epochs": 3}},
                "policy": QUICK_POLICY,
            }
            url, key = ((folder / "data" / part).read_text().strip() for part in ("url", "api-key"))
            command = [_bin(folder, "python"), "-c", f"MODEL = {model!r}\n{DRIVER}", url, key, str(folder)]
            return subprocess.run(command, cwd=folder / "client", check=False).returncode


def _generate(client: Client, folder: Path) -> None:
    document = client.get("/v1/openapi.json")
    for item in document["paths"].values():
        for operation in item.values():
            content = operation.get("requestBody", {}).get("content", {})
            for form in list(content)[1:]:
                del content[form]
    (folder / "openapi.json").write_text(json.dumps(document))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    venv.create(folder / "venv", with_pip=True)
    subprocess.run([_bin(folder, "pip"), "install", "--quiet", GENERATOR], check=True)
    arguments = ["generate", "--path", "openapi.json", "--config", "config.json", "--output-path", "client"]
    made = subprocess.run(
        [_bin(folder, "openapi-python-client"), *arguments, "--meta", "none", "--fail-on-warning"],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        env={"PATH": str(folder / "venv" / "bin")},
    )
    print(made.stdout + made.stderr)
    made.check_returncode()
    (folder / "client").rename(folder / "lethe_generated")
    (folder / "client").mkdir()
    (folder / "lethe_generated").rename(folder / "client" / "lethe_generated")


def _bin(folder: Path, program: str) -> str:
    return str(folder / "venv" / "bin" / program)


def _digits(path: Path) -> None:
    """scikit-learn's digits as PNG in Parquet: what an upload takes."""
    digits = load_digits()
    images = []
    for pixels in (digits.images / 16 * 255).astype(np.uint8):
        with io.BytesIO() as file:
            Image.fromarray(pixels).save(file, "PNG")
            images.append(file.getvalue())
    table = pa.table(
        {
            "id": [f"d-{number}" for number in range(len(images))],
            "image": pa.array(images, pa.binary()),
            "label": pa.array(digits.target, pa.int64()),
        }
    )
    pq.write_table(table, path)


if __name__ == "__main__":
    sys.exit(main())
