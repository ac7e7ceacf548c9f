from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("watcher_id", "frontend")
    WATCHER_ID_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_FIELD_NUMBER: _ClassVar[int]
    watcher_id: str
    frontend: FrontendInfo
    def __init__(self, watcher_id: _Optional[str] = ..., frontend: _Optional[_Union[FrontendInfo, _Mapping]] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("version", "instances", "router")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    ROUTER_FIELD_NUMBER: _ClassVar[int]
    version: int
    instances: _containers.RepeatedCompositeFieldContainer[Member]
    router: RouterWanted
    def __init__(self, version: _Optional[int] = ..., instances: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., router: _Optional[_Union[RouterWanted, _Mapping]] = ...) -> None: ...

class RouterAct(_message.Message):
    __slots__ = ("act", "weights", "share", "why", "serial")
    ACT_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    act: str
    weights: bytes
    share: float
    why: str
    serial: int
    def __init__(self, act: _Optional[str] = ..., weights: _Optional[bytes] = ..., share: _Optional[float] = ..., why: _Optional[str] = ..., serial: _Optional[int] = ...) -> None: ...

class RouterWanted(_message.Message):
    __slots__ = ("serial", "stage", "weights", "share", "version", "why")
    SERIAL_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    serial: int
    stage: str
    weights: bytes
    share: float
    version: str
    why: str
    def __init__(self, serial: _Optional[int] = ..., stage: _Optional[str] = ..., weights: _Optional[bytes] = ..., share: _Optional[float] = ..., version: _Optional[str] = ..., why: _Optional[str] = ...) -> None: ...

class RouterAsk(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RouterReport(_message.Message):
    __slots__ = ("stage", "version", "why", "holding", "refused", "counts")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STAGE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    HOLDING_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    version: str
    why: str
    holding: str
    refused: str
    counts: _containers.ScalarMap[str, float]
    def __init__(self, stage: _Optional[str] = ..., version: _Optional[str] = ..., why: _Optional[str] = ..., holding: _Optional[str] = ..., refused: _Optional[str] = ..., counts: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("id", "address", "state", "role", "pid", "incarnation")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    state: str
    role: str
    pid: int
    incarnation: int
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., state: _Optional[str] = ..., role: _Optional[str] = ..., pid: _Optional[int] = ..., incarnation: _Optional[int] = ...) -> None: ...

class FrontendInfo(_message.Message):
    __slots__ = ("id", "http", "grpc", "metrics", "pid", "state", "inner")
    ID_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    GRPC_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    INNER_FIELD_NUMBER: _ClassVar[int]
    id: str
    http: str
    grpc: str
    metrics: str
    pid: int
    state: str
    inner: str
    def __init__(self, id: _Optional[str] = ..., http: _Optional[str] = ..., grpc: _Optional[str] = ..., metrics: _Optional[str] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., inner: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("instances", "frontends", "moves", "act", "metrics")
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    FRONTENDS_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[InstanceStatus]
    frontends: _containers.RepeatedCompositeFieldContainer[FrontendInfo]
    moves: _containers.RepeatedCompositeFieldContainer[MoveReport]
    act: str
    metrics: str
    def __init__(self, instances: _Optional[_Iterable[_Union[InstanceStatus, _Mapping]]] = ..., frontends: _Optional[_Iterable[_Union[FrontendInfo, _Mapping]]] = ..., moves: _Optional[_Iterable[_Union[MoveReport, _Mapping]]] = ..., act: _Optional[str] = ..., metrics: _Optional[str] = ...) -> None: ...

class InstanceStatus(_message.Message):
    __slots__ = ("id", "role", "state", "pid", "running", "waiting", "free_blocks", "total_blocks", "step_ms", "note", "deaths", "address", "metrics", "freeness")
    ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    DEATHS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    FREENESS_FIELD_NUMBER: _ClassVar[int]
    id: str
    role: str
    state: str
    pid: int
    running: int
    waiting: int
    free_blocks: int
    total_blocks: int
    step_ms: float
    note: str
    deaths: int
    address: str
    metrics: str
    freeness: float
    def __init__(self, id: _Optional[str] = ..., role: _Optional[str] = ..., state: _Optional[str] = ..., pid: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., free_blocks: _Optional[int] = ..., total_blocks: _Optional[int] = ..., step_ms: _Optional[float] = ..., note: _Optional[str] = ..., deaths: _Optional[int] = ..., address: _Optional[str] = ..., metrics: _Optional[str] = ..., freeness: _Optional[float] = ...) -> None: ...

class ViewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Picture(_message.Message):
    __slots__ = ("status", "guests", "ended", "pools")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    GUESTS_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    status: StatusReply
    guests: _containers.RepeatedCompositeFieldContainer[Guest]
    ended: _containers.RepeatedCompositeFieldContainer[MoveReport]
    pools: _containers.RepeatedCompositeFieldContainer[PoolSight]
    def __init__(self, status: _Optional[_Union[StatusReply, _Mapping]] = ..., guests: _Optional[_Iterable[_Union[Guest, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[MoveReport, _Mapping]]] = ..., pools: _Optional[_Iterable[_Union[PoolSight, _Mapping]]] = ...) -> None: ...

class Guest(_message.Message):
    __slots__ = ("instance", "request_id", "state", "prompt_tokens", "computed_tokens", "output_tokens", "max_new_tokens", "moves")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    instance: str
    request_id: str
    state: str
    prompt_tokens: int
    computed_tokens: int
    output_tokens: int
    max_new_tokens: int
    moves: int
    def __init__(self, instance: _Optional[str] = ..., request_id: _Optional[str] = ..., state: _Optional[str] = ..., prompt_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., moves: _Optional[int] = ...) -> None: ...

class PoolSight(_message.Message):
    __slots__ = ("node_id", "memory_blocks", "free_blocks", "disk_blocks", "disk_free_blocks")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DISK_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    memory_blocks: int
    free_blocks: int
    disk_blocks: int
    disk_free_blocks: int
    def __init__(self, node_id: _Optional[str] = ..., memory_blocks: _Optional[int] = ..., free_blocks: _Optional[int] = ..., disk_blocks: _Optional[int] = ..., disk_free_blocks: _Optional[int] = ...) -> None: ...

class ReviveRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class ReviveReply(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, ids: _Optional[_Iterable[str]] = ...) -> None: ...

class MigrateRequest(_message.Message):
    __slots__ = ("request_id", "target")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    target: str
    def __init__(self, request_id: _Optional[str] = ..., target: _Optional[str] = ...) -> None: ...

class MoveReport(_message.Message):
    __slots__ = ("request_id", "source", "target", "reason", "outcome", "detail", "sent_bytes", "stages", "copy_s", "parked_s", "tokens", "age_s", "move_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    COPY_S_FIELD_NUMBER: _ClassVar[int]
    PARKED_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    source: str
    target: str
    reason: str
    outcome: str
    detail: str
    sent_bytes: int
    stages: int
    copy_s: float
    parked_s: float
    tokens: int
    age_s: float
    move_id: str
    def __init__(self, request_id: _Optional[str] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., reason: _Optional[str] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., stages: _Optional[int] = ..., copy_s: _Optional[float] = ..., parked_s: _Optional[float] = ..., tokens: _Optional[int] = ..., age_s: _Optional[float] = ..., move_id: _Optional[str] = ...) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("instances",)
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    instances: int
    def __init__(self, instances: _Optional[int] = ...) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("id",)
    ID_FIELD_NUMBER: _ClassVar[int]
    id: str
    def __init__(self, id: _Optional[str] = ...) -> None: ...

class RestartRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RolesRequest(_message.Message):
    __slots__ = ("roles",)
    class RolesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ROLES_FIELD_NUMBER: _ClassVar[int]
    roles: _containers.ScalarMap[str, str]
    def __init__(self, roles: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ActReply(_message.Message):
    __slots__ = ("words",)
    WORDS_FIELD_NUMBER: _ClassVar[int]
    words: str
    def __init__(self, words: _Optional[str] = ...) -> None: ...

class StoryRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class MovesReply(_message.Message):
    __slots__ = ("moves",)
    MOVES_FIELD_NUMBER: _ClassVar[int]
    moves: _containers.RepeatedCompositeFieldContainer[MoveReport]
    def __init__(self, moves: _Optional[_Iterable[_Union[MoveReport, _Mapping]]] = ...) -> None: ...

class StoryReply(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RequestStory]
    def __init__(self, requests: _Optional[_Iterable[_Union[RequestStory, _Mapping]]] = ...) -> None: ...

class RequestStory(_message.Message):
    __slots__ = ("request_id", "stays")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    STAYS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    stays: _containers.RepeatedCompositeFieldContainer[Stay]
    def __init__(self, request_id: _Optional[str] = ..., stays: _Optional[_Iterable[_Union[Stay, _Mapping]]] = ...) -> None: ...

class Stay(_message.Message):
    __slots__ = ("instance", "epoch", "why", "cached_tokens", "terms", "age_s", "pause_s", "sent_bytes", "stages", "policy", "rail")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    PAUSE_S_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    RAIL_FIELD_NUMBER: _ClassVar[int]
    instance: str
    epoch: int
    why: str
    cached_tokens: int
    terms: _containers.RepeatedCompositeFieldContainer[Reason]
    age_s: float
    pause_s: float
    sent_bytes: int
    stages: int
    policy: str
    rail: str
    def __init__(self, instance: _Optional[str] = ..., epoch: _Optional[int] = ..., why: _Optional[str] = ..., cached_tokens: _Optional[int] = ..., terms: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., age_s: _Optional[float] = ..., pause_s: _Optional[float] = ..., sent_bytes: _Optional[int] = ..., stages: _Optional[int] = ..., policy: _Optional[str] = ..., rail: _Optional[str] = ...) -> None: ...

class Reason(_message.Message):
    __slots__ = ("candidate", "scorer", "raw", "weight")
    CANDIDATE_FIELD_NUMBER: _ClassVar[int]
    SCORER_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    candidate: str
    scorer: str
    raw: float
    weight: float
    def __init__(self, candidate: _Optional[str] = ..., scorer: _Optional[str] = ..., raw: _Optional[float] = ..., weight: _Optional[float] = ...) -> None: ...
