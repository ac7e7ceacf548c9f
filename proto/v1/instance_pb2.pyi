from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Up(_message.Message):
    __slots__ = ("hello", "submit", "abort", "adopt", "call", "claim", "peers", "move", "settle", "takeover", "steer", "number", "seal")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ABORT_FIELD_NUMBER: _ClassVar[int]
    ADOPT_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    SETTLE_FIELD_NUMBER: _ClassVar[int]
    TAKEOVER_FIELD_NUMBER: _ClassVar[int]
    STEER_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    submit: Submit
    abort: Abort
    adopt: Adopt
    call: Call
    claim: Claim
    peers: Peers
    move: Move
    settle: Settle
    takeover: Takeover
    steer: Steer
    number: int
    seal: int
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., abort: _Optional[_Union[Abort, _Mapping]] = ..., adopt: _Optional[_Union[Adopt, _Mapping]] = ..., call: _Optional[_Union[Call, _Mapping]] = ..., claim: _Optional[_Union[Claim, _Mapping]] = ..., peers: _Optional[_Union[Peers, _Mapping]] = ..., move: _Optional[_Union[Move, _Mapping]] = ..., settle: _Optional[_Union[Settle, _Mapping]] = ..., takeover: _Optional[_Union[Takeover, _Mapping]] = ..., steer: _Optional[_Union[Steer, _Mapping]] = ..., number: _Optional[int] = ..., seal: _Optional[int] = ...) -> None: ...

class Down(_message.Message):
    __slots__ = ("welcome", "report", "adopted", "reply", "refused", "handover", "moved", "number", "seal")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    ADOPTED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    HANDOVER_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    report: StepReport
    adopted: Adopted
    reply: Reply
    refused: Refused
    handover: Handover
    moved: Moved
    number: int
    seal: int
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., report: _Optional[_Union[StepReport, _Mapping]] = ..., adopted: _Optional[_Union[Adopted, _Mapping]] = ..., reply: _Optional[_Union[Reply, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., handover: _Optional[_Union[Handover, _Mapping]] = ..., moved: _Optional[_Union[Moved, _Mapping]] = ..., number: _Optional[int] = ..., seal: _Optional[int] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "watcher_id", "vllm_version")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    WATCHER_ID_FIELD_NUMBER: _ClassVar[int]
    VLLM_VERSION_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    watcher_id: str
    vllm_version: str
    def __init__(self, protocol: _Optional[int] = ..., watcher_id: _Optional[str] = ..., vllm_version: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "instance_id", "role", "model", "vllm_version", "block_size", "total_blocks", "max_model_len", "max_num_batched_tokens", "max_num_seqs", "hash_seed", "pid", "loras", "load", "sealed")
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VLLM_VERSION_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    HASH_SEED_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LORAS_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    instance_id: str
    role: str
    model: str
    vllm_version: str
    block_size: int
    total_blocks: int
    max_model_len: int
    max_num_batched_tokens: int
    max_num_seqs: int
    hash_seed: str
    pid: int
    loras: _containers.RepeatedScalarFieldContainer[str]
    load: Load
    sealed: bool
    def __init__(self, protocol: _Optional[int] = ..., instance_id: _Optional[str] = ..., role: _Optional[str] = ..., model: _Optional[str] = ..., vllm_version: _Optional[str] = ..., block_size: _Optional[int] = ..., total_blocks: _Optional[int] = ..., max_model_len: _Optional[int] = ..., max_num_batched_tokens: _Optional[int] = ..., max_num_seqs: _Optional[int] = ..., hash_seed: _Optional[str] = ..., pid: _Optional[int] = ..., loras: _Optional[_Iterable[str]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., sealed: _Optional[bool] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("request_id", "epoch", "request", "delivered", "tenant", "resume_key", "resume_context", "traceparent")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    DELIVERED_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    RESUME_KEY_FIELD_NUMBER: _ClassVar[int]
    RESUME_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    epoch: int
    request: bytes
    delivered: _containers.RepeatedScalarFieldContainer[int]
    tenant: str
    resume_key: str
    resume_context: bytes
    traceparent: str
    def __init__(self, request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., request: _Optional[bytes] = ..., delivered: _Optional[_Iterable[int]] = ..., tenant: _Optional[str] = ..., resume_key: _Optional[str] = ..., resume_context: _Optional[bytes] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Abort(_message.Message):
    __slots__ = ("request_ids",)
    REQUEST_IDS_FIELD_NUMBER: _ClassVar[int]
    request_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class Adopt(_message.Message):
    __slots__ = ("resume_key", "tenant")
    RESUME_KEY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    resume_key: str
    tenant: str
    def __init__(self, resume_key: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class Adopted(_message.Message):
    __slots__ = ("resume_key", "found", "epoch", "request", "resume_context")
    RESUME_KEY_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    RESUME_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    resume_key: str
    found: bool
    epoch: int
    request: bytes
    resume_context: bytes
    def __init__(self, resume_key: _Optional[str] = ..., found: _Optional[bool] = ..., epoch: _Optional[int] = ..., request: _Optional[bytes] = ..., resume_context: _Optional[bytes] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("resume_key", "tenant", "request_id", "epoch")
    RESUME_KEY_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    resume_key: str
    tenant: str
    request_id: str
    epoch: int
    def __init__(self, resume_key: _Optional[str] = ..., tenant: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ...) -> None: ...

class Call(_message.Message):
    __slots__ = ("call_id", "method", "arguments_json")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_JSON_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    method: str
    arguments_json: str
    def __init__(self, call_id: _Optional[int] = ..., method: _Optional[str] = ..., arguments_json: _Optional[str] = ...) -> None: ...

class Reply(_message.Message):
    __slots__ = ("call_id", "result_json", "error")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_JSON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    result_json: str
    error: str
    def __init__(self, call_id: _Optional[int] = ..., result_json: _Optional[str] = ..., error: _Optional[str] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("request_id", "epoch", "reason", "client_fault")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CLIENT_FAULT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    epoch: int
    reason: str
    client_fault: bool
    def __init__(self, request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., reason: _Optional[str] = ..., client_fault: _Optional[bool] = ...) -> None: ...

class StepReport(_message.Message):
    __slots__ = ("step", "step_start_s", "sent_s", "outputs", "epochs", "indexes", "load", "blocks", "residents", "has_residents", "block_sequence", "heard", "accepted")
    STEP_FIELD_NUMBER: _ClassVar[int]
    STEP_START_S_FIELD_NUMBER: _ClassVar[int]
    SENT_S_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    HAS_RESIDENTS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    HEARD_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    step: int
    step_start_s: float
    sent_s: float
    outputs: bytes
    epochs: _containers.RepeatedScalarFieldContainer[int]
    indexes: _containers.RepeatedScalarFieldContainer[int]
    load: Load
    blocks: _containers.RepeatedCompositeFieldContainer[BlockChange]
    residents: _containers.RepeatedCompositeFieldContainer[Resident]
    has_residents: bool
    block_sequence: int
    heard: int
    accepted: int
    def __init__(self, step: _Optional[int] = ..., step_start_s: _Optional[float] = ..., sent_s: _Optional[float] = ..., outputs: _Optional[bytes] = ..., epochs: _Optional[_Iterable[int]] = ..., indexes: _Optional[_Iterable[int]] = ..., load: _Optional[_Union[Load, _Mapping]] = ..., blocks: _Optional[_Iterable[_Union[BlockChange, _Mapping]]] = ..., residents: _Optional[_Iterable[_Union[Resident, _Mapping]]] = ..., has_residents: _Optional[bool] = ..., block_sequence: _Optional[int] = ..., heard: _Optional[int] = ..., accepted: _Optional[int] = ...) -> None: ...

class Load(_message.Message):
    __slots__ = ("running", "waiting", "queued_prefill_tokens", "uncached_prefill_tokens", "context_tokens", "free_blocks", "total_blocks", "step_ms", "predicted_step_ms", "stepping", "draining")
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    UNCACHED_PREFILL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STEP_MS_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_STEP_MS_FIELD_NUMBER: _ClassVar[int]
    STEPPING_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    running: int
    waiting: int
    queued_prefill_tokens: int
    uncached_prefill_tokens: int
    context_tokens: int
    free_blocks: int
    total_blocks: int
    step_ms: float
    predicted_step_ms: float
    stepping: bool
    draining: bool
    def __init__(self, running: _Optional[int] = ..., waiting: _Optional[int] = ..., queued_prefill_tokens: _Optional[int] = ..., uncached_prefill_tokens: _Optional[int] = ..., context_tokens: _Optional[int] = ..., free_blocks: _Optional[int] = ..., total_blocks: _Optional[int] = ..., step_ms: _Optional[float] = ..., predicted_step_ms: _Optional[float] = ..., stepping: _Optional[bool] = ..., draining: _Optional[bool] = ...) -> None: ...

class BlockChange(_message.Message):
    __slots__ = ("kind", "hashes")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STORED: _ClassVar[BlockChange.Kind]
        REMOVED: _ClassVar[BlockChange.Kind]
        CLEARED: _ClassVar[BlockChange.Kind]
    STORED: BlockChange.Kind
    REMOVED: BlockChange.Kind
    CLEARED: BlockChange.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    kind: BlockChange.Kind
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, kind: _Optional[_Union[BlockChange.Kind, str]] = ..., hashes: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Peers(_message.Message):
    __slots__ = ("addresses",)
    class AddressesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    addresses: _containers.ScalarMap[str, str]
    def __init__(self, addresses: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ("move_id", "request_id", "epoch", "frontend", "target", "reason")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    request_id: str
    epoch: int
    frontend: str
    target: str
    reason: str
    def __init__(self, move_id: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., frontend: _Optional[str] = ..., target: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Steer(_message.Message):
    __slots__ = ("draining", "role")
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    draining: bool
    role: str
    def __init__(self, draining: _Optional[bool] = ..., role: _Optional[str] = ...) -> None: ...

class Handover(_message.Message):
    __slots__ = ("move_id", "request_id", "epoch", "index", "target", "prepared", "reason", "sent_bytes", "stages")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    request_id: str
    epoch: int
    index: int
    target: str
    prepared: bool
    reason: str
    sent_bytes: int
    stages: int
    def __init__(self, move_id: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., index: _Optional[int] = ..., target: _Optional[str] = ..., prepared: _Optional[bool] = ..., reason: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., stages: _Optional[int] = ...) -> None: ...

class Settle(_message.Message):
    __slots__ = ("move_id", "request_id", "epoch", "committed")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    COMMITTED_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    request_id: str
    epoch: int
    committed: bool
    def __init__(self, move_id: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., committed: _Optional[bool] = ...) -> None: ...

class Takeover(_message.Message):
    __slots__ = ("move_id", "request_id", "epoch", "traceparent")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    request_id: str
    epoch: int
    traceparent: str
    def __init__(self, move_id: _Optional[str] = ..., request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Moved(_message.Message):
    __slots__ = ("move_id", "request_id", "frontend", "target", "reason", "outcome", "detail", "sent_bytes", "stages", "copy_s", "parked_s", "tokens")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    COPY_S_FIELD_NUMBER: _ClassVar[int]
    PARKED_S_FIELD_NUMBER: _ClassVar[int]
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    request_id: str
    frontend: str
    target: str
    reason: str
    outcome: str
    detail: str
    sent_bytes: int
    stages: int
    copy_s: float
    parked_s: float
    tokens: int
    def __init__(self, move_id: _Optional[str] = ..., request_id: _Optional[str] = ..., frontend: _Optional[str] = ..., target: _Optional[str] = ..., reason: _Optional[str] = ..., outcome: _Optional[str] = ..., detail: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., stages: _Optional[int] = ..., copy_s: _Optional[float] = ..., parked_s: _Optional[float] = ..., tokens: _Optional[int] = ...) -> None: ...

class Resident(_message.Message):
    __slots__ = ("request_id", "epoch", "frontend", "state", "priority", "prompt_tokens", "output_tokens", "computed_tokens", "blocks", "max_new_tokens", "tenant", "lora", "unmovable", "moves", "since_s")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    FRONTEND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    LORA_FIELD_NUMBER: _ClassVar[int]
    UNMOVABLE_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    SINCE_S_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    epoch: int
    frontend: str
    state: str
    priority: int
    prompt_tokens: int
    output_tokens: int
    computed_tokens: int
    blocks: int
    max_new_tokens: int
    tenant: str
    lora: str
    unmovable: str
    moves: int
    since_s: float
    def __init__(self, request_id: _Optional[str] = ..., epoch: _Optional[int] = ..., frontend: _Optional[str] = ..., state: _Optional[str] = ..., priority: _Optional[int] = ..., prompt_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., computed_tokens: _Optional[int] = ..., blocks: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., tenant: _Optional[str] = ..., lora: _Optional[str] = ..., unmovable: _Optional[str] = ..., moves: _Optional[int] = ..., since_s: _Optional[float] = ...) -> None: ...

class Parcel(_message.Message):
    __slots__ = ("open", "blocks", "prepare", "number", "seal")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    PREPARE_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    open: Open
    blocks: Blocks
    prepare: Prepare
    number: int
    seal: int
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., blocks: _Optional[_Union[Blocks, _Mapping]] = ..., prepare: _Optional[_Union[Prepare, _Mapping]] = ..., number: _Optional[int] = ..., seal: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("opened", "installed", "prepared", "declined", "number", "seal")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    INSTALLED_FIELD_NUMBER: _ClassVar[int]
    PREPARED_FIELD_NUMBER: _ClassVar[int]
    DECLINED_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    installed: Installed
    prepared: Prepared
    declined: Declined
    number: int
    seal: int
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., installed: _Optional[_Union[Installed, _Mapping]] = ..., prepared: _Optional[_Union[Prepared, _Mapping]] = ..., declined: _Optional[_Union[Declined, _Mapping]] = ..., number: _Optional[int] = ..., seal: _Optional[int] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("move_id", "source", "fingerprint", "submit", "hashes", "shared_memory", "moves", "traceparent")
    MOVE_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    move_id: str
    source: str
    fingerprint: bytes
    submit: Submit
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    shared_memory: str
    moves: int
    traceparent: str
    def __init__(self, move_id: _Optional[str] = ..., source: _Optional[str] = ..., fingerprint: _Optional[bytes] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., hashes: _Optional[_Iterable[bytes]] = ..., shared_memory: _Optional[str] = ..., moves: _Optional[int] = ..., traceparent: _Optional[str] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("missing", "shared_memory")
    MISSING_FIELD_NUMBER: _ClassVar[int]
    SHARED_MEMORY_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedScalarFieldContainer[int]
    shared_memory: bool
    def __init__(self, missing: _Optional[_Iterable[int]] = ..., shared_memory: _Optional[bool] = ...) -> None: ...

class Blocks(_message.Message):
    __slots__ = ("positions", "hashes", "output", "payload", "offset", "checksum")
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    HASHES_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedScalarFieldContainer[int]
    hashes: _containers.RepeatedScalarFieldContainer[bytes]
    output: _containers.RepeatedScalarFieldContainer[int]
    payload: bytes
    offset: int
    checksum: int
    def __init__(self, positions: _Optional[_Iterable[int]] = ..., hashes: _Optional[_Iterable[bytes]] = ..., output: _Optional[_Iterable[int]] = ..., payload: _Optional[bytes] = ..., offset: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class Installed(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Prepare(_message.Message):
    __slots__ = ("output", "computed_tokens", "state", "payload", "offset", "checksum")
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    output: _containers.RepeatedScalarFieldContainer[int]
    computed_tokens: int
    state: bytes
    payload: bytes
    offset: int
    checksum: int
    def __init__(self, output: _Optional[_Iterable[int]] = ..., computed_tokens: _Optional[int] = ..., state: _Optional[bytes] = ..., payload: _Optional[bytes] = ..., offset: _Optional[int] = ..., checksum: _Optional[int] = ...) -> None: ...

class Prepared(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Declined(_message.Message):
    __slots__ = ("reason", "no_room")
    REASON_FIELD_NUMBER: _ClassVar[int]
    NO_ROOM_FIELD_NUMBER: _ClassVar[int]
    reason: str
    no_room: bool
    def __init__(self, reason: _Optional[str] = ..., no_room: _Optional[bool] = ...) -> None: ...
