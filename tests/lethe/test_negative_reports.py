"""Negative reports under the offline verifier: read in words, never taken for a certificate, refused when touched."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta

import pytest

from app.evidence import certificate, negative
from app.evidence.negative import Finding, NegativeFacts
from lethe import verify
from lethe.verify import RefusedError
from tests.app.evidence.test_certificate import KEY, REPORT, T, facts, in_log, issue, others
from tests.lethe.test_verify import TRUSTED, altered, failures, leaves_of, report

REQUEST = replace(facts().request, fulfilled_at=None)
FAILED = certificate.audit_figures(REPORT)
FAILED["judgement"] = FAILED["judgement"] | {"verdict": "fail", "reason": "still remembered"}
REJECTED = Finding("mod_1", None, "job_1", "attention", "amun", "fail", "the escalation has no step left", FAILED)
PASSED = Finding("mod_2", 4, "job_2", "published", "amun", "not audited", "", None)


def given(*findings, request=REQUEST):
    return NegativeFacts(T + timedelta(days=9), request.id if request else "aud_1", request, findings or (REJECTED,))


def signed(facts, kind=negative.EVENT_KIND, about=None):
    """Statement and envelope, logged between other entries."""
    entry = {
        "at": "2026-03-11T09:30:00.000000Z",
        "data": {"statement": certificate.binding(negative.build(facts))},
        "kind": kind,
        "object": about or facts.about,
    }
    proven = in_log([*others(4), entry, *others(3, 100)], 4)
    statement = negative.build(replace(facts, log=proven))
    return statement, certificate.sign(statement, KEY)


STATEMENT, ENVELOPE = signed(given(REJECTED, PASSED))


def test_it_says_in_words_that_no_deletion_is_certified():
    found = report(ENVELOPE)
    assert found.verified, failures(found)
    assert found.of == "negative report"
    assert found.says[0].startswith("NO DELETION IS CERTIFIED")
    assert "NOT FULFILLED" in found.says[1]
    [failed] = [line for line in found.says if "NOTHING WAS PUBLISHED" in line]
    assert "FAIL: the escalation has no step left" in failed
    assert "REFUSED: 2 samples of it, 17(3)(e)" in found.says
    assert "the audit does not show: other attacks" in found.not_proved
    assert verify.show(found).endswith("The negative report is verified. It does NOT certify forgetting: mod_1.")


def test_of_an_audit_and_of_samples_that_were_not_erased():
    audit = Finding("mod_1", 3, "job_1", "audited", "amun", "fail", "still remembered", FAILED)
    found = report(signed(given(audit, request=None))[1])
    assert found.verified, failures(found)
    assert found.says[1:] == ["audit aud_1:", "mod_1 version 3: audited, the audit's verdict is FAIL: still remembered"]
    kept = Finding(None, None, "job_9", "not-erased", None, "not audited", "the samples could not be erased", None)
    found = report(signed(given(PASSED, kept))[1])
    assert found.says[-1] == "the samples: NOT ERASED: the samples could not be erased"
    assert found.uncertified == ["the samples"]


def test_a_verifier_of_certificates_alone_refuses_it():
    with pytest.raises(RefusedError, match="another type"):
        verify.open_envelope(json.dumps(ENVELOPE).encode(), TRUSTED)
    assert negative.PREDICATE_TYPE not in verify.PREDICATE_TYPES


def test_it_supersedes_no_certificate_and_none_supersedes_it():
    found = report(
        issue(facts(supersedes=certificate.digest_of(STATEMENT)))[1], previous=[json.dumps(ENVELOPE).encode()]
    )
    assert "supersession" in failures(found)


@pytest.mark.parametrize("path", leaves_of(STATEMENT), ids=str)
def test_every_field_is_guarded(path):
    changed = altered(STATEMENT, path)
    payload = base64.b64encode(certificate.canonical(changed)).decode()
    assert not report(ENVELOPE | {"payload": payload}).verified  # by somebody without the key
    assert not report(certificate.sign(changed, KEY)).verified  # by the signer, past its own log


@pytest.mark.parametrize("part", ["wording", "findings", "request", "about", "log", "not_proved"])
def test_a_report_without_one_of_its_parts_is_refused(part):
    predicate = {name: value for name, value in STATEMENT["predicate"].items() if name != part}
    assert "signature" in failures(report(certificate.sign(STATEMENT | {"predicate": predicate}, KEY)))


def test_nothing_negative_is_no_negative_report():
    with pytest.raises(ValueError, match="no success"):
        negative.build(given(PASSED))
    changed = json.loads(json.dumps(STATEMENT))
    changed["predicate"]["findings"] = changed["predicate"]["findings"][1:]
    assert "calls nothing a failure" in failures(report(certificate.sign(changed, KEY)))["signature"]


def test_a_certificate_does_not_pass_for_one_by_its_type_and_neither_the_other_way_round():
    certified, _ = issue(facts())
    for of, named in ((certified, negative.PREDICATE_TYPE), (STATEMENT, certificate.PREDICATE_TYPE)):
        assert "signature" in failures(report(certificate.sign(of | {"predicateType": named}, KEY)))


def test_its_entry_in_the_log_is_of_its_own_kind_and_request():
    for wrong in (
        signed(given(), kind=certificate.EVENT_KIND)[1],
        signed(given(), about="del_2")[1],
    ):
        assert "transparency log" in failures(report(wrong))


@pytest.mark.parametrize("verdict", ["pass", "inconclusive", "fail"])
def test_a_certificate_says_of_which_models_it_certifies_no_forgetting(verdict):
    found = report(issue(facts(verdict=verdict))[1])
    assert found.verified
    last = verify.show(found).splitlines()[-1]
    if verdict == "pass":
        assert last == "The certificate is verified."
    else:
        assert last == (
            "The certificate is verified. It does NOT certify forgetting: "
            f"mod_1 version 2 (the audit's verdict is {verdict})."
        )
