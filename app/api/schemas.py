"""Bodies of the HTTP contract. Times are RFC 3339 UTC.

Sample ids appear in requests and in the listing of a dataset, and in no other reply.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from app.api.http.paging import moment
from app.api.http.patterns import (
    DAY,
    DAY_OR_MOMENT,
    DEVICE_LABEL,
    DIGEST,
    EVENT,
    NAME,
    SAMPLE_ID,
    URL,
    id_pattern,
)
from app.formats.input_contract import InputContract
from app.formats.preprocessing import InputBody, timm_pool, with_file
from app.rules import grounds
from app.rules.compliance import Channel
from app.rules.deadlines import clock
from app.rules.policy import Choice, Policy, choose, choose_probes

Time = Annotated[
    datetime,
    PlainSerializer(lambda t: t.replace(tzinfo=UTC).isoformat().replace("+00:00", "Z"), return_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME)]
ID_OR_NAME = "its id, or its name if no other has the name"
SampleId = Annotated[str, Field(min_length=1, max_length=256, pattern=SAMPLE_ID)]
Digest = Annotated[str, Field(pattern=DIGEST)]
DeviceLabel = Annotated[str, Field(pattern=DEVICE_LABEL)]
Day = Annotated[str, Field(pattern=DAY)]
DayOrMoment = Annotated[str, Field(pattern=DAY_OR_MOMENT)]
CaseReference = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME)]
RequestStatusName = Literal[
    "accepted", "processing", "published", "fulfilled", "incomplete", "needs-attention", "held", "refused", "cancelled"
]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


def real_time(text: str | None) -> str | None:
    """The text of a day or a moment; ValueError where no calendar has it."""
    if text is not None and len(text) > 10:
        moment(text)
    elif text is not None:
        date.fromisoformat(text)
    return text


def in_place(text: str | None, jurisdiction: str) -> datetime | None:
    """UTC without a zone, of a day or a moment; a day begins where the controller acts."""
    if text is None or len(text) > 10:
        return None if text is None else moment(text)
    return clock(jurisdiction).start_of(date.fromisoformat(text))


class Body(BaseModel):
    """What is sent: a number is a number, neither a text nor true or false."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Problem(BaseModel):
    """RFC 9457."""

    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    request_id: str | None = Field(None, description="as in the header `X-Request-Id` and in the service's log")


# -- datasets --------------------------------------------------------------------------------------


class DatasetCreate(Body):
    name: Name
    source: Choice = Field(description="a source of the catalog; `upload` waits for `PUT …/content`")
    carried_for: Name | None = Field(
        None,
        description="of source `upload`: samples that this model, by its id or its name, is to forget, whose data are "
        "not held here (source "
        "`external`), with never-trained controls as holdout; all of it is erased by the deletion request that names "
        "the dataset, or unused after a day",
    )
    id_namespace: Name | None = Field(
        None,
        max_length=60,
        description="where its sample ids come from: an id that was erased in one dataset of a namespace is left out "
        "of every later one; without a namespace an id means something in its own dataset only",
    )

    assign_canaries: bool = Field(
        False,
        description="of source `upload`: a coin of this service decides which samples of the subject `lethe:canary` "
        "are in the train split; the split that the content gives them does not count. Its digest is in the log before "
        "you send them. An audit of such canaries takes no reference model",
    )

    @field_validator("source")
    @classmethod
    def _source(cls, choice: Choice) -> Choice:
        return choose("sources", choice)

    @model_validator(mode="after")
    def _one_meaning(self) -> DatasetCreate:
        if self.assign_canaries and (self.source.name != "upload" or self.carried_for is not None):
            raise ValueError("canaries are assigned in a dataset of source `upload` that is not carried")
        if self.carried_for is not None and self.id_namespace is not None:
            raise ValueError("a carried dataset is erased whole, so that its ids need no namespace")
        return self


class CoinOut(BaseModel):
    commitment: str = Field(
        description="SHA-256 of the coin's bytes, hex: in the log's event `dataset.registered` as `canary_coin`"
    )
    coin: str | None = Field(
        description="hex, once the dataset is ready: a canary is held out where the lowest bit of the first byte of "
        "HMAC-SHA-256(coin, id) is 1"
    )


DatasetState = Literal["awaiting-content", "ingesting", "ready", "failed", "erased"]


class DatasetOut(BaseModel):
    id: str
    name: str
    source: Choice
    state: DatasetState
    carried_for: str | None = Field(description="the model that is to forget them; they are kept no longer")
    id_namespace: str | None = Field(description="where its sample ids come from, if it says so")
    expires_at: Time | None = Field(description="of a carried dataset: when it is erased unless a request uses it")
    samples: int = Field(description="taken in, of both splits, those included that were erased since")
    train_samples: int = Field(description="of them in the train split")
    classes: int
    class_names: list[str | None] | None = Field(
        description="by label, where the source names them; null in the place of one whose samples are all erased"
    )
    shape: list[int | None] | None
    erased_samples: int = Field(description="of both splits")
    job: str | None = Field(None, description="the ingest job, in the reply that started it")
    canaries: CoinOut | None = Field(description="of a dataset whose canaries this service assigns")
    problem: dict[str, Any] | None
    created_at: Time


ShardSplit = Literal["train", "holdout", "test", "val", "validation", "valid"]


class ShardOut(BaseModel):
    number: int
    content_type: str
    split: ShardSplit | None = Field(description="of all its samples, where the file names none")
    size: int = Field(description="bytes that have come")
    whole: bool = Field(description="whether all of it has come, and was checked")
    digest: str | None = Field(description="sha256 of the whole file")
    samples: int | None


class Conversion(BaseModel):
    code: str
    samples: int
    detail: str


class ClassCount(BaseModel):
    label: int
    train: int
    holdout: int


class SizeCount(BaseModel):
    height: int
    width: int
    samples: int


class DuplicateCount(BaseModel):
    samples: int = Field(description="whose picture another sample has, pixel for pixel; none of a single colour")
    contents: int = Field(description="different pictures among them")
    across_splits: int = Field(description="samples of the holdout whose picture a training sample has")


class IngestReport(BaseModel):
    """What was taken in, when it was: counts, and no ids. What was erased since is still counted."""

    samples: int
    form: str
    splits: dict[str, int]
    classes: list[ClassCount] = Field(description="the first thousand")
    modes: dict[str, int] = Field(description="pictures by what their files hold, in Pillow's words")
    sizes: list[SizeCount] = Field(description="the twenty most frequent")
    different_sizes: int
    constant: int = Field(description="pictures of a single colour")
    duplicates: DuplicateCount
    conversions: list[Conversion] = Field(description="what was changed on the way in, and what was made up")


class PreviewBody(Body):
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=16)]


class PictureOut(BaseModel):
    label: int
    split: Literal["train", "holdout"]
    height: int
    width: int
    png: str = Field(description="base64 of a PNG with the pixels that models are given before their input contract")


class DatasetErasable(BaseModel):
    """What deleting a dataset would erase."""

    samples: int
    bytes: int
    copies: int = Field(description="copies that input contracts made of its pictures")
    reference_signals: int = Field(description="signals of reference models on its samples")
    shards: int = Field(description="files, or parts of files, that were sent and not taken in")
    needed: list[str] = Field(description="who needs it, in words; while there is anybody, it is refused")


class ShardReuse(Body):
    digest: str = Field(pattern=r"^sha256:[0-9a-f]{64}$", description="of the file, as it was sent before")
    split: ShardSplit | None = Field(None, description="that it was sent with, as its samples keep theirs")


class DatasetClose(Body):
    shards: int = Field(ge=1, le=10_000, description="how many were sent")


class SampleOut(BaseModel):
    id: str
    label: int
    split: Literal["train", "holdout"]


# -- models ----------------------------------------------------------------------------------------


class BaseBody(Body):
    """A version of another model, of the same architecture, that never saw the dataset."""

    model: Name = Field(description=ID_OR_NAME)
    version: int | None = Field(None, ge=1, lt=2**31, description="absent: the current one")
    never_saw: str | None = Field(
        None,
        min_length=10,
        max_length=1000,
        description="your word that it never saw the dataset, and why; a base whose data are not held here needs it, "
        "and every report repeats it",
    )


class BaseOut(BaseModel):
    model: str
    version: int
    digest: str
    never_saw: str = Field(description="why it is said that the base never saw the dataset")


class ModelCreate(Body):
    name: Name
    dataset: Name = Field(description=ID_OR_NAME)
    architecture: Choice = Field(
        description="of its `params` those may be left out that the file of timm or Hugging Face in `input` has"
    )
    recipe: Choice = Field(default=Choice(name="sgd"), validate_default=True)
    policy: Policy = Field(default_factory=Policy)
    input: InputBody = Field(
        default_factory=InputBody, description="what the network sees of an image; absent: the image as it is"
    )
    base: BaseBody | None = Field(
        None,
        description="what training starts from, exact retraining and reference models too; null: random weights. Its "
        "head is replaced",
    )
    device: DeviceLabel | None = Field(None, description="only workers of this device label run its jobs; null: any")

    @field_validator("architecture")
    @classmethod
    def _architecture(cls, choice: Choice) -> Choice:
        return choose("architectures", choice)

    @field_validator("recipe")
    @classmethod
    def _recipe(cls, choice: Choice) -> Choice:
        return choose("recipes", choice)

    @model_validator(mode="before")
    @classmethod
    def _with_their_file(cls, body: Any) -> Any:
        if isinstance(body, dict) and "architecture" in body:
            return {**body, "architecture": with_file(body["architecture"], body.get("input"))}
        return body

    @model_validator(mode="after")
    def _as_their_file_says(self) -> ModelCreate:
        """The network is the one that the file of timm or Hugging Face is of."""
        params = self.architecture.params
        if self.architecture.name == "timm" and self.input.timm and "pretrained_cfg" in self.input.timm:
            named, pool = self.input.timm.get("architecture"), timm_pool(self.input.timm)
            if named is not None and named != params["name"]:
                raise ValueError(f"timm's `config.json` is of {named}, and `architecture` says {params['name']}")
            if pool and pool != params.get("global_pool"):
                raise ValueError(f"timm's `config.json` has the pooling {pool}, and `architecture` says another")
        if self.architecture.name == "hugging_face" and self.input.hugging_face:
            named, kind = self.input.hugging_face.config.get("model_type"), params["config"]["model_type"]
            if named is not None and named != kind:
                raise ValueError(f"`config.json` of `input` is not of {kind}, which `architecture` says")
        return self


class ModelOut(BaseModel):
    id: str
    name: str
    dataset: str
    architecture: Choice
    recipe: Choice
    policy: Policy
    notes: list[str] = Field(description="what this policy cannot do, said before it is needed")
    input: InputContract
    base: BaseOut | None
    device: str | None
    current_version: int | None
    blessed_version: int | None = Field(
        description="the version that its owner last trained, imported or promoted; the utility floor is held against "
        "it, too"
    )
    created_at: Time


class Erasable(BaseModel):
    """What deleting would erase and end."""

    versions: list[int] = Field(description="whose checkpoints would go")
    bytes: int
    adversarial_sets: int = 0
    aliases: list[str] = Field(default_factory=list)
    jobs_cancelled: int = 0
    requests_settled: int = Field(0, description="open deletion requests that the end of the whole model settles")
    needed: list[str] = Field(description="who needs it, in words; while there is anybody, it is refused")


class TrainBody(Body):
    seed: Seed = 0
    exclude_request: str | None = Field(
        None, pattern=id_pattern("del"), description="retrain exactly without this request's samples"
    )
    compare_only: bool = Field(False, description="keep the result to compare with; never publish it")
    promote: bool = Field(
        False,
        description="let the result take the place of a current version; else it is a candidate, which `:promote` "
        "makes current",
    )


class AuditBody(Body):
    version: int | None = Field(None, ge=1, lt=2**31, description="absent: the current one")
    audit: Choice | None = Field(None, description="absent: the policy's")
    probes: tuple[Choice, ...] | None = Field(
        None, strict=False, max_length=8, description="absent: the policy's, of canaries none"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="measure these instead of the forget set of the batch that made the version"
    )
    subjects: Annotated[list[SampleId], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="the same by whose they are: every sample of these people that a version was trained on"
    )
    grouped: bool = Field(False, description="the samples named were chosen together: 0.5 is not their null")
    canaries: bool = Field(
        False, description="measure the canaries that this version and those before it have forgotten, instead"
    )

    @model_validator(mode="after")
    def _one_set(self) -> AuditBody:
        if self.canaries and (self.sample_ids is not None or self.subjects is not None or self.grouped):
            raise ValueError("`canaries` takes the place of `sample_ids`")
        if self.sample_ids is not None and self.subjects is not None:
            raise ValueError("send either `sample_ids` or `subjects`")
        return self

    @field_validator("audit")
    @classmethod
    def _audit(cls, choice: Choice | None) -> Choice | None:
        return choose("audits", choice) if choice else None

    @field_validator("probes")
    @classmethod
    def _probes(cls, probes: tuple[Choice, ...] | None) -> tuple[Choice, ...] | None:
        return choose_probes(probes) if probes else probes


class AuditOut(BaseModel):
    id: str
    job: str
    published: bool = Field(description="the version was published with this report; others were made since")
    verdict: Literal["pass", "fail", "inconclusive"]
    created_at: Time


class SeedBody(Body):
    seed: Seed = 0


class ReferencesBody(Body):
    count: int = Field(
        16, ge=2, le=256, description="reference models; under four give a verdict for these references alone"
    )
    design: Literal["halves", "folds"] = Field(
        "halves",
        description="halves: each sample is in half of the models, of which there is an even number. folds: each "
        "sample is left out by one model and seen by the others, so the models are more like the audited one",
    )
    seed: Seed = 0
    versions: Annotated[list[Annotated[str, Field(pattern=id_pattern("ver"))]], Field(min_length=2, max_length=256)] | (
        None
    ) = Field(
        None,
        description="instead of training any: versions of models on the same dataset, imported with what each was "
        "trained on",
    )

    @model_validator(mode="after")
    def _whole(self) -> ReferencesBody:
        if self.design == "halves" and self.count % 2:
            raise ValueError("`halves` takes an even number of models; `folds` takes any")
        if self.versions is not None and self.model_fields_set - {"versions"}:
            raise ValueError("`versions` takes the place of `count`, `design` and `seed`")
        if self.versions is not None and len(set(self.versions)) < len(self.versions):
            raise ValueError("each version may be named once")
        return self


class PoolOut(BaseModel):
    """Reference models that were sent as log-odds or logits."""

    pool: str
    references: int
    samples: int = Field(description="of the dataset that they say something of")
    design: Literal["given", "given-other"]


class AuditOffer(BaseModel):
    """One kind of audit: what it costs, and what it could say."""

    kind: Literal["canaries", "own-references", "two-references", "folds", "pool", "retrained-null"]
    judges: Literal["request", "procedure"]
    trainings: float = Field(description="its price, in trainings of the model")
    seconds: float | None = Field(description="measured seconds of a training times that; null before one was measured")
    smallest_margin: float | None = Field(
        description="that it could pass with 80 % power, by the number of samples; null where none below 0.5"
    )
    smallest_margin_alike: float | None = Field(
        description="of a set requested by person: the same where all samples of a person say one thing"
    )
    possible: bool = Field(description="a pass at the margin asked for is possible")
    lacks: list[str] = Field(description="what it takes besides, in words")
    limits: str = Field(description="what its verdict would say, and what it would not")


class AuditPlan(BaseModel):
    model: str
    margin: float
    samples: int
    people: int | None
    controls: int = Field(description="never-trained samples of the holdout")
    control_people: int
    canaries_trained: int
    canaries_held_out: int
    training_seconds: float | None = Field(description="the median of the model's trainings here")
    signal: float | None = Field(
        description="RT-AUC - 0.5 of the current version in its newest report; a pass takes a margin below it"
    )
    offers: list[AuditOffer] = Field(description="the cheapest first")


class AliasBody(Body):
    version: int = Field(ge=1, lt=2**31)


class AliasOut(BaseModel):
    name: str
    version: int
    updated_at: Time


Logits = Annotated[list[float], Field(min_length=2, max_length=10_000)]


class Stated(Body):
    """What the model's owner measured, on the holdout or on the samples named."""

    accuracy: float | None = Field(None, ge=0, le=1, description="a fraction")
    logits: Annotated[list[Logits], Field(min_length=1, max_length=256)] | None = Field(
        None, description="of `sample_ids`, in their order; each row in the order of the network's own outputs"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="which samples; absent: the holdout"
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="largest difference that is agreement; absent: 0.005 of the accuracy, 0.01 of any logit",
    )

    @model_validator(mode="after")
    def _one_measure(self) -> Stated:
        if (self.accuracy is None) == (self.logits is None):
            raise ValueError("send either `accuracy` or `logits`")
        if self.logits is not None:
            if len(self.sample_ids or ()) != len(self.logits):
                raise ValueError("`logits` needs `sample_ids`, one for each row")
            if len({len(row) for row in self.logits}) > 1:
                raise ValueError("every row of `logits` must have one number for each class")
        elif self.tolerance is not None and self.tolerance > 1:
            raise ValueError("the `tolerance` of an accuracy is a fraction")
        return self


class VersionCreate(Body):
    digest: Digest = Field(description="sha256 of the safetensors file that will be sent")
    trained_on: (
        Literal["train-split", "not-held"] | Annotated[list[SampleId], Field(min_length=1, max_length=1_000_000)]
    ) = Field(
        description="the ids that the checkpoint was trained on, or the dataset's whole train split, or `not-held` "
        "where the dataset is of source `external`"
    )
    stated: Stated | None = Field(
        None, description="the import measures the same, and refuses a checkpoint that does not agree"
    )


class SignBody(Body):
    form: Literal["plain", "hugging-face"] = "plain"


class SignatureOut(BaseModel):
    """An OpenSSF model signature of an exported folder."""

    bundle: dict[str, Any] = Field(description="the content of `model.sig`")
    public_key: str = Field(description="PEM, P-256")
    files: dict[str, str] = Field(description="SHA-256 by name, as signed")


Origin = Literal["trained", "imported", "unlearned", "comparison"]


class VersionOut(BaseModel):
    id: str = Field(description="as events and webhooks name it")
    model: str
    number: int
    state: Literal["candidate", "current", "superseded", "purged"]
    origin: Origin
    parent: int | None
    digest: str
    size: int = Field(description="bytes; 0 while an announced checkpoint has not been sent")
    trained_samples: int | None = Field(description="null: on data that are not held here")
    metrics: dict[str, Any]
    job: str | None
    created_at: Time
    purge_after: Time | None
    purged_at: Time | None


# -- deletion requests -----------------------------------------------------------------------------


class DeletionCreate(Body):
    dataset: Name = Field(description=ID_OR_NAME)
    model: Name | None = Field(
        None, description="this model only, by its id or its name: the dataset keeps the samples"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="neither these nor `subjects` for a dataset that is `carried_for` a model: all of it"
    )
    subjects: Annotated[list[SampleId], Field(min_length=1, max_length=10_000)] | None = Field(
        None, description="instead of ids: every sample of these subjects"
    )
    jurisdiction: str = Field(
        "gdpr", max_length=20, description="`gdpr`, `gdpr:DE`, `gdpr:DE-BY` …, `uk-gdpr`, `ccpa`: whose clock runs"
    )
    basis: Name = Field("erasure-request", max_length=60, description="the ground, in your register's words")
    ground: str | None = Field(
        None, max_length=20, description="the statute's: `17(1)(a)` to `17(1)(f)` or `21`; under `ccpa` `1798.105`"
    )
    received_at: DayOrMoment | None = Field(
        None, description="when the law's clock began: a day where the controller acts, or a time; absent: now"
    )
    received_reason: str | None = Field(
        None, min_length=1, max_length=500, description="why it is entered on a later day; name nobody in it"
    )
    reference: CaseReference | None = Field(
        None, description="your ticket or letter; it may name a person, and is erased at the end of its retention"
    )
    channel: Channel | None = Field(None, description="how it came")
    complaint_about: str | None = Field(
        None,
        pattern=id_pattern("del"),
        description="an answered request that this one reopens; without samples: those that were refused, or, where "
        "nothing was, the same ones again",
    )
    allow_data_loss: bool = Field(False, description="accept that a model loses its last sample of a class, or all")
    validate_only: bool = Field(False, description="check everything, store nothing, say what it would mean")

    @field_validator("received_at")
    @classmethod
    def _is_a_time(cls, text: str | None) -> str | None:
        return real_time(text)

    @field_validator("jurisdiction")
    @classmethod
    def _known(cls, jurisdiction: str) -> str:
        clock(jurisdiction)
        return jurisdiction

    @model_validator(mode="after")
    def _of_its_law(self) -> DeletionCreate:
        try:
            grounds.require(grounds.GROUNDS, self.jurisdiction, self.ground)
        except ValueError as error:
            raise ValueError(f"the legal ground: {error}") from None
        return self

    @model_validator(mode="after")
    def _one_of(self) -> DeletionCreate:
        if self.sample_ids is not None and self.subjects is not None:
            raise ValueError("send either `sample_ids` or `subjects`")
        return self


class DeletionPreview(BaseModel):
    samples: int
    models: list[str] = Field(description="models that would be edited")
    due_at: Time
    duplicates: int | None = Field(
        description="other samples whose pictures are the same, pixel for pixel, and which stay; null: not known, of "
        "data that are not held here, or that an earlier version took in"
    )
    duplicate_ids: list[str] = Field(description="the first hundred of them")
    through_base: list[str] = Field(
        description="models of other data that learned of the samples through their base: the request waits until they "
        "are purged"
    )


class ImportLine(BaseModel):
    line: int = Field(description="in what was sent, from 0; empty lines count")
    status: int
    id: str | None
    problem: dict[str, Any] | None


class ReasonBody(Body):
    reason: str = Field(min_length=1, max_length=2000, description="kept with the request; name nobody in it")


class ConfirmBody(Body):
    at: DayOrMoment | None = Field(None, description="absent: now")

    _real = field_validator("at")(real_time)


class IdentityBody(Body):
    status: Literal["asked", "confirmed", "refused"] = Field(
        description="you asked for a proof, the person has shown one, or has shown none"
    )
    at: DayOrMoment | None = Field(None, description="when; absent: now")
    until: Day | None = Field(None, description="with `asked`: the day up to which you wait")
    _real = field_validator("at", "until")(real_time)

    note: str | None = Field(
        None, min_length=1, max_length=1000, description="how; it may name a person, and is erased with the reference"
    )


class RemainsBody(ReasonBody):
    until: DayOrMoment = Field(description="when what was made from the samples goes")

    _real = field_validator("until")(real_time)


class RefuseBody(ReasonBody):
    ground: str | None = Field(
        None, max_length=30, description="the statute's, such as `17(3)(e)`, `12(2)` or `1798.105(d)(1)`"
    )
    sample_ids: Annotated[list[SampleId], Field(min_length=1, max_length=100_000)] | None = Field(
        None, description="refuse only these"
    )


class OutcomeOut(BaseModel):
    model: str
    state: Literal["pending", "batched", "published", "purged", "attention"]
    verdict: Literal["pass", "fail", "inconclusive"] | None = Field(
        None, description="of the audit that its version was published with"
    )
    job: str | None
    version: int | None
    reason: str | None
    forecast_at: Time | None = Field(None, description="probable time of publication, by measured durations")


class ReceiptOut(BaseModel):
    subject: str
    detail: str
    digest: str | None
    due_at: Time | None
    done_at: Time | None


class OwedObjects(BaseModel):
    addresses: list[str] = Field(description="s3://bucket/key; at most as many as the request has samples")


class ReceiptListed(ReceiptOut):
    request: str
    jurisdiction: str = Field(description="of the request")
    model: str | None


class ProposalOut(BaseModel):
    """A refusal that waits for its second person."""

    by: str = Field(description="the key that proposed it")
    reason: str
    ground: str | None
    samples: int | None = Field(description="null: all of the request")
    created_at: Time


class RefusalOut(BaseModel):
    """One refusal, of the request or of a part."""

    at: Time
    by: str | None = Field(description="the key that decided; the second one where two people had to")
    samples: int
    ground: str | None = Field(description="the statute's")
    reason: str | None = Field(description="null once it is erased")
    late: bool = Field(description="the law's time for a refusal had passed")
    letter_sent_at: Time | None = Field(description="when the letter that says it went")


class IdentityOut(BaseModel):
    status: Literal["not-needed", "asked", "confirmed", "refused"]
    asked_at: Time | None
    until: Time | None
    ended_at: Time | None = Field(description="when the wait ended; a proof that comes after it moves no date")
    moves_due_at: bool = Field(
        description="whether the due date is later for the wait: not under `ccpa`, nor where you asked after it"
    )


class RemainOut(BaseModel):
    """What the service still holds that was made from the samples."""

    subject: str
    model: str | None
    until: Time | None


class HistoryEntry(BaseModel):
    at: Time
    kind: str
    actor: str | None = Field(description="the API key, or `service`; null: an event of version 0.2 or earlier")
    actor_name: str | None = Field(description="of the key")
    reason: str | None = Field(description="in free words; null once it is erased")
    data: dict[str, Any] = Field(description="what changed, as the log has it")
    leaf: int | None = Field(description="its place in the log")


class History(BaseModel):
    entries: list[HistoryEntry]


class DeletionOut(BaseModel):
    id: str
    status: RequestStatusName
    reason: str | None = Field(description="of a decision, or why its purge needs attention")
    dataset: str
    model: str | None
    samples: int
    samples_refused: int
    jurisdiction: str
    rule: str = Field(description="which reading of the law set the dates")
    basis: str
    ground: str | None = Field(description="the statute's")
    reference: str | None
    identity: IdentityOut
    complaint_about: str | None
    case: str | None = Field(description="of one letter about several datasets: the first request's id")
    received_at: Time
    posted_at: Time = Field(description="when it was entered here")
    received_reason: str | None
    channel: str | None = Field(description="how it came")
    confirm_by: Time | None
    confirmed_at: Time | None
    due_at: Time
    extended_at: Time | None
    extension_reason: str | None
    extension_sent_at: Time | None = Field(description="when the notice of the extension went")
    decided_at: Time | None
    refusal_ground: str | None = Field(description="of the last refusal; `refusals` has each")
    refusals: list[RefusalOut]
    proposal: ProposalOut | None
    fulfilled_at: Time | None
    verdict: Literal["pass", "fail", "inconclusive"] | None = Field(description="of all models the worst")
    model_replaced_at: Time | None = Field(description="when the last affected model was replaced")
    erasure_complete_at: Time | None = Field(
        description="when the last thing that the service holds goes, or went; null until the samples are erased"
    )
    answered_at: Time | None = Field(description="when the letter with the answer went")
    answered_how: str | None
    remains: list[RemainOut] = Field(description="what is left until then")
    remains_reason: str | None = Field(description="why it is kept past the due date")
    outcomes: list[OutcomeOut]
    receipts: list[ReceiptOut]


# -- jobs ------------------------------------------------------------------------------------------


class EscalationOut(BaseModel):
    number: int = Field(description="from 1: the policy's own method")
    of: int
    method: str
    after: str | None = Field(description="the job whose candidate was rejected before it")
    why: str | None = Field(description="why that one was")
    next: str | None = Field(description="the job that its batch went on to")


class JobOut(BaseModel):
    id: str
    kind: str = Field(
        description="ingest, train, import, references, reference, precompute, unlearn, audit, purge; a service of a "
        "newer version may have left others"
    )
    state: Literal["queued", "running", "succeeded", "rejected", "failed", "cancelled", "dead"]
    waiting_for: str | None = Field(description="of a queued job that no live worker takes: which worker is missing")
    stage: str | None
    fraction: float
    eta_seconds: float | None = Field(
        description="from the last progress, at the pace up to then; absent unless it runs"
    )
    attempts: int
    dataset: str | None
    model: str | None
    request: str | None
    parent: str | None = Field(description="the job that this one is a part of")
    device: str | None
    due_at: Time | None = Field(
        description="the earliest due date of the requests that it carries out, until it has ended"
    )
    escalation: EscalationOut | None = Field(description="of an unlearn job: its step of the policy's escalation")
    result: dict[str, Any] | None
    problem: dict[str, Any] | None
    created_at: Time
    started_at: Time | None
    finished_at: Time | None


class WorkerOut(BaseModel):
    name: str
    device: str
    label: str = Field(description="device label that models may name")
    kinds: list[str] = Field(description="kinds of jobs that it takes; none: every kind")
    offers: list[str] = Field(description="plug-ins and libraries that not every worker has")
    device_memory: int = Field(description="peak, bytes")
    seen_at: Time


class WorkerList(BaseModel):
    workers: list[WorkerOut]


# -- keys, webhooks, compliance ------------------------------------------------------------------

Scope = Literal["read", "request", "operate", "samples", "audit", "admin"]


class KeyCreate(Body):
    name: Name
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=6)]
    expires_in_days: int | None = Field(None, ge=1, le=3650)


class KeyRotate(Body):
    overlap_seconds: int = Field(0, ge=0, le=30 * 86400, description="how long the old key works beside the new one")


class KeyOut(BaseModel):
    id: str
    name: str
    scopes: list[Scope]
    role: str | None = Field(description="of a user of the console, who signs in and has no token; null: a key")
    created_at: Time
    expires_at: Time | None
    revoked_at: Time | None


class KeyMade(KeyOut):
    token: str | None = Field(None, description="the key itself; shown once, absent when the reply is replayed")


EventKind = Annotated[str, Field(pattern=EVENT)]


class WebhookCreate(Body):
    url: str = Field(min_length=8, max_length=2000, pattern=URL)
    events: Annotated[list[EventKind], Field(max_length=50)] = Field(
        default_factory=list, description="kinds such as `version.unlearned` or `request.*`; empty: all"
    )


class WebhookOut(BaseModel):
    id: str
    url: str
    events: list[str]
    created_at: Time
    disabled_at: Time | None


class WebhookMade(WebhookOut):
    secret: str | None = Field(None, description="signs deliveries; shown once, absent when the reply is replayed")


DeliveryState = Literal["pending", "delivered", "failed"]


class DeliveryOut(BaseModel):
    id: str
    kind: str
    state: DeliveryState
    attempts: int
    last_error: str | None
    created_at: Time
    due_at: Time | None


class PoolCost(BaseModel):
    dataset: str
    models: list[str] = Field(description="whose audits use it")
    references: int
    hours: float | None = Field(description="measured, of building such a pool; null before the first")
    goes_at: Time | None = Field(description="when it goes because of an erasure; a new one is built seven days before")


class RemainsCost(BaseModel):
    rule: str = Field(description="`remains` of the tenant's rules")
    pools: list[PoolCost]
    alternatives: list[str]


class RegisterEntry(BaseModel):
    request: str
    status: str
    reference: str | None
    dataset: str
    model: str | None
    samples: int
    samples_refused: int
    basis: str
    ground: str | None
    jurisdiction: str
    rule: str
    channel: str | None
    received_on: str = Field(description="the day of receipt where the controller acts, which counts for the year")
    received_at: str
    posted_at: str
    received_reason: str | None
    identity: str
    complaint_about: str | None
    confirm_by: str | None
    confirmed_at: str | None
    due_at: str
    extended_at: str | None
    extension_reason: str | None
    extension_sent_at: str | None
    decided_at: str | None
    reason: str | None
    refusal_ground: str | None = Field(description="of each refusal")
    refusal_reason: str | None
    refused_late: bool | None = Field(description="null: nothing was refused")
    verdict: str | None
    model_replaced_at: str | None
    fulfilled_at: str | None
    erasure_complete_at: str | None
    answered_at: str | None
    answered_how: str | None
    days: float | None = Field(
        description="to the letter with the answer; to the decision where none is marked as sent"
    )


class Summary(BaseModel):
    as_of: str
    year: int | None
    received: int
    by_status: dict[str, int]
    by_verdict: dict[str, int] = Field(description="models of requests, by the verdict of the audit in that year")
    samples: int
    extended: int
    overdue: list[str] = Field(description="ids, the earliest due date first; 1000 at most")
    overdue_count: int
    due_soon: list[str] = Field(description="the same of those due within seven days")
    due_soon_count: int
    answered_late: int
    mean_days: float | None
    median_days: float | None


# -- evidence --------------------------------------------------------------------------------------


class CertificateOut(BaseModel):
    digest: str = Field(description="sha256 of the statement; what a newer certificate names as superseded")
    request: str
    supersedes: str | None
    receipts_done: int = Field(description="of the request's receipts, when it was sealed")
    issued_at: Time


class EnvelopeSignature(BaseModel):
    keyid: str
    sig: str


class Envelope(BaseModel):
    """DSSE: a signed in-toto statement."""

    payload: str = Field(description="base64 of the statement's canonical JSON")
    payloadType: str  # noqa: N815  (DSSE's own name)
    signatures: list[EnvelopeSignature]


class Opening(BaseModel):
    salt: str = Field(description="hex")


class Shredded(BaseModel):
    deleted: bool = Field(description="false: there was no salt (left)")


class LogEntries(BaseModel):
    start: int
    entries: list[dict[str, Any]]


class LogProof(BaseModel):
    hashes: list[str] = Field(description="hex, from the leaf up")


class LogKey(BaseModel):
    id: str
    public_key: str
    not_before: str
    not_after: str | None


class LogKeys(BaseModel):
    keys: list[LogKey]


# -- the rest --------------------------------------------------------------------------------------


class CatalogEntry(BaseModel):
    summary: str
    params: dict[str, Any] = Field(description="JSON Schema of the parameters")
    needs_remain: bool
    needs_adversarial: bool
    needs_given: bool = Field(description="takes the adversarial set of another version instead of searching")
    exact: bool
    plugin: bool = Field(description="a package that the operator installed adds it")
    module: str | None = Field(description="a library that its workers must have besides Lethe's own")


class Readiness(BaseModel):
    status: Literal["ready", "starting", "degraded"]
    database: Literal["ok"]
    broker: Literal["ok", "unreachable", "refuses", "none"]
    workers: int
    storage: Literal["ok", "unreachable", "refuses"]
    degraded: list[str] = Field(description="what is missing in words; requests are accepted all the same")
