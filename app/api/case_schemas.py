"""Bodies and replies about cases: notices, papers, case files, people, drafts, recalls, the status of certificates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, field_validator

from app.api.http.patterns import DIGEST, id_pattern
from app.api.schemas import Body, DayOrMoment, DeletionCreate, Name, SampleId, Time, real_time
from app.cases.notices import LONGEST, Kind, Text
from app.cases.papers import Kind as PaperKind
from app.rules.compliance import Language

# -- notices and papers ----------------------------------------------------------------------------


class NoticeCreate(Body):
    kind: Literal["acknowledgement", "identity", "extension", "refusal", "completion"]
    language: Language | None = Field(None, description="absent: that of the tenant's rules")


class NoticeOut(BaseModel):
    id: str
    kind: Kind
    language: Language
    subject: str
    body: str
    created_at: Time
    sent_at: Time | None
    sent_how: str | None
    sent_by: str | None = Field(description="the key that marked it as sent")


class NoticeList(BaseModel):
    notices: list[NoticeOut]


class SentBody(Body):
    how: Name = Field(max_length=40, description="`letter`, `e-mail`, `portal` …")
    at: DayOrMoment | None = Field(None, description="absent: now")

    _real = field_validator("at")(real_time)


class TemplateBody(Body):
    subject: str = Field(min_length=1, max_length=300, description="one line, with fields such as `{{request}}`")
    body: str = Field(min_length=1, max_length=LONGEST, description="plain text with fields")


class TemplateOut(BaseModel):
    kind: Text
    language: Language
    subject: str
    body: str
    updated_at: Time | None = Field(description="null: the text that comes with the service")
    fields: list[str]


class PaperCreate(Body):
    kind: PaperKind
    name: Name = Field(description="of the file; it may name a person")
    content: str = Field(min_length=1, description="base64; 4 MiB at most")


class PaperOut(BaseModel):
    id: str
    kind: PaperKind
    name: str
    size: int = Field(description="bytes")
    digest: str
    created_at: Time


class PaperList(BaseModel):
    papers: list[PaperOut]


class CaseFileBody(Body):
    with_papers: bool = Field(False, description="put in what came with the case, too")


class CaseFileOut(BaseModel):
    request: str
    asked_at: Time
    with_papers: bool


# -- people and drafts -----------------------------------------------------------------------------


class PeopleBody(Body):
    subjects: Annotated[list[SampleId], Field(min_length=1, max_length=1000)]


class PersonHeld(BaseModel):
    subject: int = Field(description="place in the list, from 0")
    dataset: str
    name: str = Field(description="of the dataset")
    samples: int
    requested: int = Field(description="of these, taken by requests against the dataset")
    models: dict[str, int] = Field(description="models whose current version was trained on some, with how many")
    requests: dict[str, int] = Field(description="requests that have taken some, with how many")


class People(BaseModel):
    held: list[PersonHeld]
    erased: list[int] = Field(description="places of subjects whose samples were erased before")
    not_read: list[str] = Field(description="datasets that are not ready, into which nobody could look")


class SpanBody(Body):
    """One letter about several datasets."""

    subjects: Annotated[list[SampleId], Field(min_length=1, max_length=1000)]
    like: DeletionCreate = Field(description="members of every request; `dataset` names one that must be among them")


class SpanOut(BaseModel):
    case: str
    requests: list[str]
    due_at: Time
    not_read: list[str] = Field(description="datasets that are not ready, into which nobody could look")


class DownloadOut(BaseModel):
    key: str
    name: str | None = Field(description="of the key")
    form: str
    at: Time
    reason: str | None = Field(description="of a version that was withheld, until the end of the retention of reasons")


class HeldVersion(BaseModel):
    id: str
    model: str
    number: int
    parent: int | None
    state: str
    digest: str
    samples: int = Field(description="of these samples, trained on")
    aliases: list[str]
    downloads: list[DownloadOut]


class BlastRadius(BaseModel):
    versions: list[HeldVersion]


class ModelDraftOut(BaseModel):
    model: str
    name: str
    samples: int = Field(description="of them in its training data")
    seconds: float | None = Field(description="measured, of such a job; null before the first")
    forecast_at: Time | None
    margin: float | None = Field(description="of the policy's audit")
    smallest_margin: float | None = Field(description="that a set of this size could pass with 80 % power")
    emptied: list[int] = Field(description="labels of classes that it would lose")


class DraftOut(BaseModel):
    samples: int
    received_at: Time
    due_at: Time
    models: list[ModelDraftOut]
    versions: list[HeldVersion] = Field(description="every version that was trained on some of them")
    duplicates: int | None = Field(description="as in the preview of a request")
    notes: list[str]


class DatasetDraft(DraftOut):
    dataset: str
    name: str = Field(description="of the dataset")


class SpanDraft(BaseModel):
    """What one letter about several datasets would mean; nothing is stored."""

    due_at: Time
    drafts: list[DatasetDraft]
    not_read: list[str] = Field(description="datasets that are not ready, into which nobody could look")


# -- recalls and certificates ----------------------------------------------------------------------


class RecallBody(Body):
    language: Language | None = Field(None, description="of the notice; absent: that of the tenant's rules")


class RecallOut(BaseModel):
    id: str
    request: str
    versions: list[dict[str, str | int]]
    keys: list[str] = Field(description="that fetched them")
    notice: str = Field(description="the notice to send")
    created_at: Time


class StatusOut(BaseModel):
    digest: Annotated[str, Field(pattern=DIGEST)]
    request: Annotated[str, Field(pattern=id_pattern("del"))]
    status: Literal["valid", "superseded", "contested", "revoked"]
    since: Time = Field(description="when it became that; of `valid`, when it was sealed")
    superseded_by: str | None
    contested_by: list[str] = Field(description="open requests that complain about its request")
    revoked_at: Time | None


# -- figures ---------------------------------------------------------------------------------------


class Days(BaseModel):
    """From receipt to the letter with the answer, or to the decision where no letter is marked as sent."""

    answered: int
    mean: float | None
    median: float | None
    late: int


class Figures(BaseModel):
    year: int | None
    received: int
    by_law: dict[str, int]
    by_ground: dict[str, int] = Field(description="the statute's; `none` where none was named")
    by_outcome: dict[str, int]
    by_refusal_ground: dict[str, int] = Field(description="refusals, of whole requests and of parts")
    refused_late: int = Field(description="of these, after the law's time for a refusal")
    by_verdict: dict[str, int] = Field(description="models of requests, by the verdict of the audit in that year")
    days: Days
    days_by_law: dict[str, Days]
