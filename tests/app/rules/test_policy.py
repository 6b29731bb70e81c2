"""A stored choice is complete; a refused one is told why without what was sent."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from app import catalog
from app.rules.policy import Choice, EscalationChoice, Policy, choose


@pytest.mark.parametrize("kind", catalog.KINDS)
def test_defaults_are_filled_in_and_choosing_again_changes_nothing(kind: str) -> None:
    for name, entry in catalog.KINDS[kind].items():
        chosen = choose(kind, Choice(name=name))
        always = {name for name, field in entry.params.model_fields.items() if field.exclude_if is None}
        assert always <= chosen.params.keys() <= entry.params.model_fields.keys()
        assert choose(kind, chosen) == chosen
        assert catalog.parse(kind, name, chosen.params) == entry.params()


def test_what_was_sent_is_not_repeated() -> None:
    for choice in (
        Choice(name="secret-name"),
        Choice(name="pgd_l2", params={"secret-key": 1}),
        Choice(name="pgd_l2", params={"steps": "secret-value"}),
        Choice(name="pgd_l2", params={"steps": {"secret-key": 1}}),
    ):
        with pytest.raises(ValueError, match=r".") as refused:
            choose("attacks", choice)
        assert "secret" not in str(refused.value)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(ValueError, match="pgd_l2"):
        choose("attacks", Choice(name="nothing"))


def test_the_default_policy_stands_and_is_stored_whole() -> None:
    policy = Policy()
    stored = policy.model_dump()
    assert Policy.model_validate(stored) == policy
    assert stored["method"]["params"]["epochs"] == 10
    assert stored["attack"]["params"]["steps"] == 50


def test_a_method_that_needs_the_remain_set_is_refused_where_the_policy_gives_none() -> None:
    for name, entry in catalog.METHODS.items():
        if entry.needs_remain:
            with pytest.raises(ValidationError, match="remain set"):
                Policy(method=Choice(name=name), remain="none")
        else:
            assert Policy(method=Choice(name=name), remain="none").remain == "none"


@pytest.mark.parametrize(
    ("kind", "choice", "said"),
    [
        (
            "architectures",
            Choice(name="torchvision", params={"name": "ResNet 18"}),
            "name: torchvision has no classifier",
        ),
        ("sources", Choice(name="torchvision", params={"options": {"a-b": 1}}), "options: must be 1 to 40 of"),
        (
            "sources",
            Choice(name="external", params={"classes": 2, "shape": [8, 8, 1], "class_names": ["a", "a"]}),
            "class_names: class names must differ",
        ),
    ],
)
def test_what_is_wrong_is_said_in_words(kind: str, choice: Choice, said: str) -> None:
    with pytest.raises(ValueError, match=said) as refused:
        choose(kind, choice)
    assert "^" not in str(refused.value)


def test_every_regular_expression_of_the_catalog_has_its_words() -> None:
    def patterns(schema: Any) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from [schema["pattern"]] if isinstance(schema.get("pattern"), str) else []
            for each in schema.values():
                yield from patterns(each)
        elif isinstance(schema, list):
            for each in schema:
                yield from patterns(each)

    found = {
        pattern
        for entries in catalog.KINDS.values()
        for entry in entries.values()
        for pattern in patterns(entry.params.model_json_schema())
    }
    assert found == set(catalog.WORDS) - {catalog.OPTION_NAME}  # keys of a dict are said elsewhere in a schema


@pytest.mark.parametrize(
    "fields",
    [
        {"grace_seconds": -1},
        {"grace_seconds": 91 * 86400},
        {"grace_seconds": 10**30},
        {"utility_floor": 1.5},
        {"utility_floor": float("nan")},
        {"remain": "some"},
        {"adversarial": "both"},
        {"unknown": 1},
        {"method": "amun"},
        {"audit": {"name": "amun"}},
        {"attack": {"name": "x" * 61}},
    ],
)
def test_policies_outside_their_schema(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate(fields)


def test_the_escalation_ends_in_exact_retraining_where_the_remain_set_is_given() -> None:
    assert [step.name for step in Policy().escalation] == ["retrain"]
    assert Policy(remain="subsample").escalation == Policy(remain="none").escalation == ()
    assert Policy(method=Choice(name="retrain")).escalation == ()
    assert Policy(escalation=()).escalation == ()


def test_a_policy_says_what_it_cannot_do() -> None:
    assert Policy().notes == []
    assert "no last step" in Policy(remain="none").notes[0]
    assert (
        "best-looking of 2 candidates"
        in Policy(escalation=(EscalationChoice(name="salun"), EscalationChoice(name="retrain"))).notes[0]
    )


def test_the_steps_are_the_method_and_the_escalation_in_order() -> None:
    escalation = (EscalationChoice(name="amun", params={"epochs": 20}, stronger=True), EscalationChoice(name="retrain"))
    policy = Policy(escalation=escalation)
    assert [choice.params.get("epochs") for choice in policy.methods] == [10, 20, None]
    assert [(step.method, step.exact, step.stronger) for step in policy.steps] == [
        ("amun", False, False),
        ("amun", False, True),
        ("retrain", True, False),
    ]
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


def test_a_policy_of_version_0_1_is_understood() -> None:
    steps = [{"name": "amun", "params": {"epochs": 20}, "stronger": True}, {"name": "retrain", "params": {}}]
    now = Policy.model_validate({"escalation": steps})
    stored = {("ladder" if name == "escalation" else name): value for name, value in now.model_dump().items()}
    assert Policy.model_validate(stored) == now
    assert "ladder" not in Policy.model_validate(stored).model_dump()
    assert "ladder" not in str(Policy.model_json_schema())
    with pytest.raises(ValidationError, match="Extra inputs"):
        Policy.model_validate({"escalation": steps, "ladder": steps})


def test_a_policy_of_before_there_were_escalations_gets_the_default_one() -> None:
    stored = Policy().model_dump(exclude={"escalation", "on_inconclusive", "probes"})
    assert Policy.model_validate(stored) == Policy()
