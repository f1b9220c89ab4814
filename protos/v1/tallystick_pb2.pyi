from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Envelope(_message.Message):
    __slots__ = ("request", "signature")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    signature: bytes
    def __init__(self, request: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("contract", "job", "partner", "expires", "nonce", "hello", "prepare", "release", "unmask", "match", "status", "finish", "cancel")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    PARTNER_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    UNMASK_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    partner: str
    expires: int
    nonce: bytes
    hello: Hello
    prepare: Prepare
    release: Release
    unmask: Unmask
    match: Match
    status: Status
    finish: Finish
    cancel: Cancel
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., partner: _Optional[str] = ..., expires: _Optional[int] = ..., nonce: _Optional[bytes] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., release: _Optional[_Union[Release, _Mapping]] = ..., unmask: _Optional[_Union[Unmask, _Mapping]] = ..., match: _Optional[_Union[Match, _Mapping]] = ..., status: _Optional[_Union[Status, _Mapping]] = ..., finish: _Optional[_Union[Finish, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ...) -> None: ...

class Signed(_message.Message):
    __slots__ = ("party", "body", "signature")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    party: str
    body: bytes
    signature: bytes
    def __init__(self, party: _Optional[str] = ..., body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("spec", "salt", "heads", "calls")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    SALT_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    spec: bytes
    salt: bytes
    heads: _containers.RepeatedCompositeFieldContainer[Signed]
    calls: Signed
    def __init__(self, spec: _Optional[bytes] = ..., salt: _Optional[bytes] = ..., heads: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., calls: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("hellos",)
    HELLOS_FIELD_NUMBER: _ClassVar[int]
    hellos: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, hellos: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("indexes", "state", "prepared", "shares")
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    indexes: _containers.RepeatedScalarFieldContainer[int]
    state: bytes
    prepared: _containers.RepeatedCompositeFieldContainer[Signed]
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, indexes: _Optional[_Iterable[int]] = ..., state: _Optional[bytes] = ..., prepared: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class Unmask(_message.Message):
    __slots__ = ("index", "masked", "locks")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    index: int
    masked: _containers.RepeatedCompositeFieldContainer[Signed]
    locks: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, index: _Optional[int] = ..., masked: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., locks: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Match(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Status(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Finish(_message.Message):
    __slots__ = ("model", "totals", "heads")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    model: bytes
    totals: _containers.RepeatedCompositeFieldContainer[Total]
    heads: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, model: _Optional[bytes] = ..., totals: _Optional[_Iterable[_Union[Total, _Mapping]]] = ..., heads: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class Total(_message.Message):
    __slots__ = ("index", "total", "answered")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    index: int
    total: bytes
    answered: int
    def __init__(self, index: _Optional[int] = ..., total: _Optional[bytes] = ..., answered: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Share(_message.Message):
    __slots__ = ("sender", "receiver", "index", "sealed")
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    sender: str
    receiver: str
    index: int
    sealed: bytes
    def __init__(self, sender: _Optional[str] = ..., receiver: _Optional[str] = ..., index: _Optional[int] = ..., sealed: _Optional[bytes] = ...) -> None: ...

class SealingKey(_message.Message):
    __slots__ = ("contract", "job", "plan", "key", "heads", "calls")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    plan: bytes
    key: bytes
    heads: _containers.RepeatedCompositeFieldContainer[Signed]
    calls: Signed
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., plan: _Optional[bytes] = ..., key: _Optional[bytes] = ..., heads: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ..., calls: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ("contract", "job", "plan", "roster", "mask_keys", "shares", "head")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    MASK_KEYS_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    plan: bytes
    roster: bytes
    mask_keys: _containers.RepeatedScalarFieldContainer[bytes]
    shares: _containers.RepeatedScalarFieldContainer[bytes]
    head: Signed
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., plan: _Optional[bytes] = ..., roster: _Optional[bytes] = ..., mask_keys: _Optional[_Iterable[bytes]] = ..., shares: _Optional[_Iterable[bytes]] = ..., head: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class MaskedDigest(_message.Message):
    __slots__ = ("contract", "job", "index", "transcript", "state", "vector")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    index: int
    transcript: bytes
    state: bytes
    vector: bytes
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., index: _Optional[int] = ..., transcript: _Optional[bytes] = ..., state: _Optional[bytes] = ..., vector: _Optional[bytes] = ...) -> None: ...

class Lock(_message.Message):
    __slots__ = ("contract", "job", "index", "transcript", "state", "present")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TRANSCRIPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    index: int
    transcript: bytes
    state: bytes
    present: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., index: _Optional[int] = ..., transcript: _Optional[bytes] = ..., state: _Optional[bytes] = ..., present: _Optional[_Iterable[str]] = ...) -> None: ...

class JournalHead(_message.Message):
    __slots__ = ("contract", "sequence", "digest", "time", "mu2", "delta", "job", "outcome", "anchors", "calls")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MU2_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ANCHORS_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    sequence: int
    digest: bytes
    time: int
    mu2: float
    delta: float
    job: str
    outcome: bytes
    anchors: _containers.RepeatedCompositeFieldContainer[Anchor]
    calls: Signed
    def __init__(self, contract: _Optional[bytes] = ..., sequence: _Optional[int] = ..., digest: _Optional[bytes] = ..., time: _Optional[int] = ..., mu2: _Optional[float] = ..., delta: _Optional[float] = ..., job: _Optional[str] = ..., outcome: _Optional[bytes] = ..., anchors: _Optional[_Iterable[_Union[Anchor, _Mapping]]] = ..., calls: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class CallLogHead(_message.Message):
    __slots__ = ("contract", "lines", "digest", "time")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    lines: int
    digest: bytes
    time: int
    def __init__(self, contract: _Optional[bytes] = ..., lines: _Optional[int] = ..., digest: _Optional[bytes] = ..., time: _Optional[int] = ...) -> None: ...

class Anchor(_message.Message):
    __slots__ = ("sequence", "digest")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    digest: bytes
    def __init__(self, sequence: _Optional[int] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("header", "body", "signature")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    body: bytes
    signature: bytes
    def __init__(self, header: _Optional[bytes] = ..., body: _Optional[bytes] = ..., signature: _Optional[bytes] = ...) -> None: ...

class ReplyHeader(_message.Message):
    __slots__ = ("contract", "job", "partner", "run", "message", "node", "body")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    PARTNER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    partner: str
    run: int
    message: str
    node: int
    body: bytes
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., partner: _Optional[str] = ..., run: _Optional[int] = ..., message: _Optional[str] = ..., node: _Optional[int] = ..., body: _Optional[bytes] = ...) -> None: ...

class ReplyBody(_message.Message):
    __slots__ = ("refusal", "working", "hello", "prepared", "masked", "unmask", "match", "finish")
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    WORKING_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    UNMASK_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    refusal: Refusal
    working: Working
    hello: Signed
    prepared: PreparedReply
    masked: MaskedReply
    unmask: UnmaskReply
    match: MatchReply
    finish: FinishReply
    def __init__(self, refusal: _Optional[_Union[Refusal, _Mapping]] = ..., working: _Optional[_Union[Working, _Mapping]] = ..., hello: _Optional[_Union[Signed, _Mapping]] = ..., prepared: _Optional[_Union[PreparedReply, _Mapping]] = ..., masked: _Optional[_Union[MaskedReply, _Mapping]] = ..., unmask: _Optional[_Union[UnmaskReply, _Mapping]] = ..., match: _Optional[_Union[MatchReply, _Mapping]] = ..., finish: _Optional[_Union[FinishReply, _Mapping]] = ...) -> None: ...

class Refusal(_message.Message):
    __slots__ = ("code",)
    CODE_FIELD_NUMBER: _ClassVar[int]
    code: str
    def __init__(self, code: _Optional[str] = ...) -> None: ...

class Working(_message.Message):
    __slots__ = ("done", "total")
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    done: int
    total: int
    def __init__(self, done: _Optional[int] = ..., total: _Optional[int] = ...) -> None: ...

class PreparedReply(_message.Message):
    __slots__ = ("statement", "shares")
    STATEMENT_FIELD_NUMBER: _ClassVar[int]
    SHARES_FIELD_NUMBER: _ClassVar[int]
    statement: Signed
    shares: _containers.RepeatedCompositeFieldContainer[Share]
    def __init__(self, statement: _Optional[_Union[Signed, _Mapping]] = ..., shares: _Optional[_Iterable[_Union[Share, _Mapping]]] = ...) -> None: ...

class MaskedReply(_message.Message):
    __slots__ = ("vectors",)
    VECTORS_FIELD_NUMBER: _ClassVar[int]
    vectors: _containers.RepeatedCompositeFieldContainer[MaskedVector]
    def __init__(self, vectors: _Optional[_Iterable[_Union[MaskedVector, _Mapping]]] = ...) -> None: ...

class MaskedVector(_message.Message):
    __slots__ = ("index", "vector", "digest")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    index: int
    vector: bytes
    digest: Signed
    def __init__(self, index: _Optional[int] = ..., vector: _Optional[bytes] = ..., digest: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class UnmaskReply(_message.Message):
    __slots__ = ("lock", "opened")
    LOCK_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    lock: Signed
    opened: _containers.RepeatedCompositeFieldContainer[OpenedShare]
    def __init__(self, lock: _Optional[_Union[Signed, _Mapping]] = ..., opened: _Optional[_Iterable[_Union[OpenedShare, _Mapping]]] = ...) -> None: ...

class OpenedShare(_message.Message):
    __slots__ = ("party", "of_mask", "share")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    OF_MASK_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    party: str
    of_mask: bool
    share: bytes
    def __init__(self, party: _Optional[str] = ..., of_mask: _Optional[bool] = ..., share: _Optional[bytes] = ...) -> None: ...

class MatchReply(_message.Message):
    __slots__ = ("is_receiver", "engine", "figures")
    IS_RECEIVER_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    FIGURES_FIELD_NUMBER: _ClassVar[int]
    is_receiver: bool
    engine: str
    figures: _containers.RepeatedCompositeFieldContainer[Figure]
    def __init__(self, is_receiver: _Optional[bool] = ..., engine: _Optional[str] = ..., figures: _Optional[_Iterable[_Union[Figure, _Mapping]]] = ...) -> None: ...

class Figure(_message.Message):
    __slots__ = ("name", "value", "deviation")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    DEVIATION_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: float
    deviation: float
    def __init__(self, name: _Optional[str] = ..., value: _Optional[float] = ..., deviation: _Optional[float] = ...) -> None: ...

class FinishReply(_message.Message):
    __slots__ = ("head",)
    HEAD_FIELD_NUMBER: _ClassVar[int]
    head: Signed
    def __init__(self, head: _Optional[_Union[Signed, _Mapping]] = ...) -> None: ...

class Handshake(_message.Message):
    __slots__ = ("contract", "job", "sender", "key", "receiver", "commitment", "over", "heads")
    CONTRACT_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    RECEIVER_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    OVER_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    contract: bytes
    job: str
    sender: str
    key: bytes
    receiver: str
    commitment: bytes
    over: bool
    heads: _containers.RepeatedCompositeFieldContainer[Signed]
    def __init__(self, contract: _Optional[bytes] = ..., job: _Optional[str] = ..., sender: _Optional[str] = ..., key: _Optional[bytes] = ..., receiver: _Optional[str] = ..., commitment: _Optional[bytes] = ..., over: _Optional[bool] = ..., heads: _Optional[_Iterable[_Union[Signed, _Mapping]]] = ...) -> None: ...

class MatchOpening(_message.Message):
    __slots__ = ("items", "engines", "held", "commitment")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ENGINES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    COMMITMENT_FIELD_NUMBER: _ClassVar[int]
    items: int
    engines: _containers.RepeatedScalarFieldContainer[str]
    held: _containers.RepeatedCompositeFieldContainer[Held]
    commitment: bytes
    def __init__(self, items: _Optional[int] = ..., engines: _Optional[_Iterable[str]] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ..., commitment: _Optional[bytes] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("kind", "frames", "chain")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    CHAIN_FIELD_NUMBER: _ClassVar[int]
    kind: int
    frames: int
    chain: bytes
    def __init__(self, kind: _Optional[int] = ..., frames: _Optional[int] = ..., chain: _Optional[bytes] = ...) -> None: ...

class MatchFrame(_message.Message):
    __slots__ = ("kind", "index", "data")
    KIND_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    kind: int
    index: int
    data: bytes
    def __init__(self, kind: _Optional[int] = ..., index: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...
