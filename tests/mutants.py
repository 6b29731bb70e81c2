"""Removes each named guard in a copy of the tree and holds that a named test turns red: `make mutants`.

A row of `MUTANTS` is one guard; words given as arguments choose rows by their names. Before any of it the same tests
must pass as they are, and the text that a row replaces must stand in its file exactly once.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
LEFT_BEHIND = shutil.ignore_patterns(".*", "__pycache__", "lethe-data", "*.egg-info", "node_modules", "venv")
TESTS_FAILED = 1  # pytest's exit code for just that: 2 and more say that it could not run them


@dataclass(frozen=True)
class Mutant:
    """A guard, the text in `file` that makes it, what stands there without it, and the tests that must notice."""

    guard: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]

    def applied(self, text: str) -> str:
        found = text.count(self.before)
        if found != 1:
            raise SystemExit(
                f"{self.guard}: its text is {found} times in {self.file}, it must be there once; "
                f"mend this row of {Path(__file__).relative_to(ROOT)}:\n{self.before}"
            )
        return text.replace(self.before, self.after)


FOREIGN = "tests/app/api/test_foreign.py::test_every_operation_answers_every_scope_as_for_what_is_not_there"
MUTANTS = (
    Mutant(
        "negative reports: something failed",
        "lethe/verify.py",
        'refuse("the report calls nothing a failure")',
        "pass",
        ("tests/lethe/test_negative_reports.py::test_nothing_negative_is_no_negative_report",),
    ),
    Mutant(
        "crowd: fewer samples wait",
        "app/deletions/batches.py",
        "return min(by_age, by_law) if pending.samples >= rule.crowd else by_law",
        "return min(by_age, by_law)",
        (
            "tests/app/deletions/test_policies.py::"
            "test_with_a_crowd_neither_age_nor_number_closes_a_smaller_batch_but_the_law_does",
        ),
    ),
    Mutant(
        "fence",
        "app/jobs/running.py",
        "Job.id == claim.id, Job.fence == claim.fence, Job.state == JobState.RUNNING",
        "Job.id == claim.id, Job.state == JobState.RUNNING",
        ("tests/faults/test_leases.py::test_a_claim_whose_fence_moved_on_changes_nothing",),
    ),
    Mutant(
        "fence: a job that has ended",
        "app/jobs/running.py",
        "Job.id == claim.id, Job.fence == claim.fence, Job.state == JobState.RUNNING",
        "Job.id == claim.id, Job.fence == claim.fence",
        ("tests/faults/test_leases.py::test_a_claim_of_a_job_that_has_ended_changes_nothing",),
    ),
    Mutant(
        "exclusivity: one running job of a lane",
        "migrations/versions/0001_the_first_schema.py",
        '"uq_jobs_running_lane",\n            ["lane"],\n            unique=True,',
        '"uq_jobs_running_lane",\n            ["lane"],\n            unique=False,',
        ("tests/faults/test_leases.py::test_the_database_refuses_a_second_running_job_of_a_lane",),
    ),
    Mutant(
        "compare-and-set of the current version",
        "app/releases/publishing.py",
        ".where(Model.id == model.id, Model.current_version.is_not_distinct_from(version.parent))",
        ".where(Model.id == model.id)",
        ("tests/faults/test_leases.py::test_two_publishers_with_one_parent_make_one_version",),
    ),
    Mutant(
        "BEGIN IMMEDIATE",
        "app/core/db.py",
        '"BEGIN IMMEDIATE" if write else "BEGIN"',
        '"BEGIN"',
        ("tests/faults/test_database.py::test_a_writer_waits_for_the_one_before_it",),
    ),
    Mutant(
        "checkpoint header: names twice",
        "app/formats/checkpoint_header.py",
        "if len(result) != len(pairs):",
        "if False:",
        ("tests/app/formats/test_safe_uploads.py::test_hostile_headers_are_refused_with_a_reason",),
    ),
    Mutant(
        "checkpoint header: overlaps and holes",
        "app/formats/checkpoint_header.py",
        "if tensor.start != at:",
        "if False:",
        ("tests/app/formats/test_safe_uploads.py::test_hostile_headers_are_refused_with_a_reason",),
    ),
    Mutant(
        "checkpoint header: read before the file is accepted",
        "app/api/versions.py",
        "                read_header(file)\n",
        "                pass\n",
        ("tests/app/releases/test_imports.py::test_a_file_that_is_no_safetensors_is_refused_at_once",),
    ),
    Mutant(
        "tenant filter: datasets",
        "app/datasets/records.py",
        "Dataset.tenant_id == tenant_id, Dataset.id == dataset_id",
        "Dataset.id == dataset_id",
        (FOREIGN,),
    ),
    Mutant(
        "tenant filter: models",
        "app/models/records.py",
        "Model.tenant_id == tenant_id, Model.id == model_id",
        "Model.id == model_id",
        (FOREIGN,),
    ),
    Mutant(
        "tenant filter: deletion requests",
        "app/deletions/views.py",
        "DeletionRequest.tenant_id == tenant_id, DeletionRequest.id == request_id",
        "DeletionRequest.id == request_id",
        (FOREIGN,),
    ),
    Mutant(
        "tenant filter: jobs",
        "app/api/jobs.py",
        "Job.tenant_id == tenant_id, Job.id == job_id",
        "Job.id == job_id",
        (FOREIGN,),
    ),
    Mutant(
        "tenant filter: the list of datasets",
        "app/api/datasets.py",
        "select(Dataset).where(Dataset.tenant_id == who.tenant_id)",
        "select(Dataset)",
        ("tests/app/api/test_tenancy.py::test_lists_of_another_tenant_are_its_own",),
    ),
    Mutant(
        "resume: made from the same base",
        "worker/runtime/run.py",
        'if row is None or row.facts.get("base") != base:',
        "if row is None:",
        ("tests/faults/test_resume.py::test_a_request_that_arrives_during_training_is_not_in_what_is_published",),
    ),
    Mutant(
        "withheld check: a version that unlearning replaced",
        "app/models/versions.py",
        "    if not by_admin and kept_back(session, version):\n",
        "    if False:\n",
        ("tests/app/datasets/test_suppression.py::test_a_version_replaced_by_an_unlearning_is_withheld_at_once",),
    ),
    Mutant(
        "suppression set: what was erased stays out",
        "app/datasets/suppression.py",
        "            gone |= np.array([mark in erased for mark in each], dtype=np.bool_)\n",
        "            pass\n",
        ("tests/app/datasets/test_suppression.py::test_the_same_content_under_other_ids_is_left_out",),
    ),
    Mutant(
        "suppression set: checkpoints trained on what was erased",
        "app/models/versions.py",
        "    if mask_of(version.trained_on, dataset.sample_count)[unavailable(dataset, model)].any():\n",
        "    if False:\n",
        (
            "tests/app/datasets/test_suppression.py::test_the_old_checkpoint_is_refused_before_the_request_is_carried_out",
        ),
    ),
    Mutant(
        "suppression set: the same weights in another file",
        "app/models/versions.py",
        "    if known is not None:\n",
        "    if False:\n",
        ("tests/app/releases/test_bytes_held.py::test_old_weights_in_another_file_are_refused_and_new_ones_are_not",),
    ),
    Mutant(
        "parser child: its limits",
        "app/formats/child.py",
        "    walls = put_up_walls(**limits)\n",
        '    walls = {"network": True}\n',
        (
            "tests/app/formats/test_sandbox.py::test_a_child_writes_no_more_than_it_may",
            "tests/app/formats/test_sandbox.py::test_a_child_has_neither_network_nor_programs_nor_the_services_settings",
        ),
    ),
    Mutant(
        "deadline in the claim",
        "app/jobs/claiming.py",
        "            deadline.asc().nulls_last(),\n",
        "",
        ("tests/app/jobs/test_order.py::test_a_near_deadline_goes_before_every_hint_and_the_nearest_first",),
    ),
    Mutant(
        "the rank of a job that may give way",
        "app/jobs/claiming.py",
        "    if imminent and claim.kind in DELETES:\n        return False\n",
        "",
        ("tests/app/jobs/test_order.py::test_no_two_jobs_put_each_other_back",),
    ),
    Mutant(
        "the place of what gave way to a purge",
        "app/jobs/claiming.py",
        "            or_(Job.kind == JobKind.PURGE, ~before_urgent, deadline.is_not(None)),\n",
        "",
        ("tests/app/jobs/test_order.py::test_no_two_jobs_put_each_other_back",),
    ),
    Mutant(
        "the tenant's turn",
        "app/jobs/claiming.py",
        "            Tenant.served_at.asc().nulls_first(),\n",
        "",
        ("tests/app/jobs/test_order.py::test_tenants_take_turns",),
    ),
    Mutant(
        "actor in events",
        "app/core/db.py",
        '    return str(session.info.get("actor", SERVICE))\n',
        "    return SERVICE\n",
        (
            "tests/app/deletions/test_legal_life.py::"
            "test_every_event_of_a_request_names_its_actor_and_the_log_has_no_free_words",
        ),
    ),
)


def pytest(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", "-x", *tests]
    environment = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, cwd=tree, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=600
    )


def survives(tree: Path, mutant: Mutant) -> str:
    """Remove the guard, run its tests, put it back; what is wrong if they do not fail, else nothing."""
    path = tree / mutant.file
    whole = path.read_text()
    path.write_text(mutant.applied(whole))
    try:
        done = pytest(tree, mutant.tests)
    finally:
        path.write_text(whole)
    if done.returncode == TESTS_FAILED:
        return ""
    return "the tests pass without it" if done.returncode == 0 else f"the tests did not run:\n{done.stdout[-3000:]}"


def main(words: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not words or any(word in mutant.guard for word in words)]
    for mutant in chosen:
        mutant.applied((ROOT / mutant.file).read_text())
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_BEHIND)
        green = pytest(tree, tuple(dict.fromkeys(test for mutant in chosen for test in mutant.tests)))
        if green.returncode:
            print(f"with every guard in place:\n{green.stdout[-6000:]}{green.stderr[-2000:]}")
            return 1
        print("green   with every guard in place", flush=True)
        worst = 0
        for mutant in chosen:
            began = time.monotonic()
            wrong = survives(tree, mutant)
            worst |= bool(wrong)
            print(
                f"{'MISSED' if wrong else 'red':6}  {time.monotonic() - began:4.0f} s  {mutant.guard}  {wrong}",
                flush=True,
            )
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
