from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DescribeAsk(_message.Message):
    __slots__ = ("nixl_agent",)
    NIXL_AGENT_FIELD_NUMBER: _ClassVar[int]
    nixl_agent: bytes
    def __init__(self, nixl_agent: _Optional[bytes] = ...) -> None: ...

class PoolFacts(_message.Message):
    __slots__ = ("node_id", "slot_bytes", "segment_slots", "prefixes", "memory_blocks", "free_blocks", "disk_blocks", "nixl_agent", "counts", "disk_free_blocks")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_SLOTS_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DISK_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    NIXL_AGENT_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    DISK_FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    slot_bytes: int
    segment_slots: int
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    memory_blocks: int
    free_blocks: int
    disk_blocks: int
    nixl_agent: bytes
    counts: _containers.ScalarMap[str, int]
    disk_free_blocks: int
    def __init__(self, node_id: _Optional[str] = ..., slot_bytes: _Optional[int] = ..., segment_slots: _Optional[int] = ..., prefixes: _Optional[_Iterable[str]] = ..., memory_blocks: _Optional[int] = ..., free_blocks: _Optional[int] = ..., disk_blocks: _Optional[int] = ..., nixl_agent: _Optional[bytes] = ..., counts: _Optional[_Mapping[str, int]] = ..., disk_free_blocks: _Optional[int] = ...) -> None: ...

class Run(_message.Message):
    __slots__ = ("tenant", "keys", "wait_s", "pin")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    PIN_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    wait_s: float
    pin: bool
    def __init__(self, tenant: _Optional[str] = ..., keys: _Optional[_Iterable[bytes]] = ..., wait_s: _Optional[float] = ..., pin: _Optional[bool] = ...) -> None: ...

class Count(_message.Message):
    __slots__ = ("blocks",)
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    blocks: int
    def __init__(self, blocks: _Optional[int] = ...) -> None: ...

class Name(_message.Message):
    __slots__ = ("name", "wait_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    wait_s: float
    def __init__(self, name: _Optional[str] = ..., wait_s: _Optional[float] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("done",)
    DONE_FIELD_NUMBER: _ClassVar[int]
    done: bool
    def __init__(self, done: _Optional[bool] = ...) -> None: ...

class Block(_message.Message):
    __slots__ = ("key", "segment", "index", "generation", "length", "seal", "address")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    segment: int
    index: int
    generation: int
    length: int
    seal: bytes
    address: int
    def __init__(self, key: _Optional[bytes] = ..., segment: _Optional[int] = ..., index: _Optional[int] = ..., generation: _Optional[int] = ..., length: _Optional[int] = ..., seal: _Optional[bytes] = ..., address: _Optional[int] = ...) -> None: ...

class Grant(_message.Message):
    __slots__ = ("name", "blocks", "stored", "refused")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STORED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    name: str
    blocks: _containers.RepeatedCompositeFieldContainer[Block]
    stored: _containers.RepeatedScalarFieldContainer[bytes]
    refused: int
    def __init__(self, name: _Optional[str] = ..., blocks: _Optional[_Iterable[_Union[Block, _Mapping]]] = ..., stored: _Optional[_Iterable[bytes]] = ..., refused: _Optional[int] = ...) -> None: ...

class Sealed(_message.Message):
    __slots__ = ("key", "seal", "length")
    KEY_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    seal: bytes
    length: int
    def __init__(self, key: _Optional[bytes] = ..., seal: _Optional[bytes] = ..., length: _Optional[int] = ...) -> None: ...

class PublishAsk(_message.Message):
    __slots__ = ("name", "blocks")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    name: str
    blocks: _containers.RepeatedCompositeFieldContainer[Sealed]
    def __init__(self, name: _Optional[str] = ..., blocks: _Optional[_Iterable[_Union[Sealed, _Mapping]]] = ...) -> None: ...

class Stored(_message.Message):
    __slots__ = ("keys", "refused", "name", "path", "held")
    KEYS_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    refused: int
    name: str
    path: str
    held: _containers.RepeatedCompositeFieldContainer[Sealed]
    def __init__(self, keys: _Optional[_Iterable[bytes]] = ..., refused: _Optional[int] = ..., name: _Optional[str] = ..., path: _Optional[str] = ..., held: _Optional[_Iterable[_Union[Sealed, _Mapping]]] = ...) -> None: ...

class FetchAsk(_message.Message):
    __slots__ = ("name", "indexes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INDEXES_FIELD_NUMBER: _ClassVar[int]
    name: str
    indexes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., indexes: _Optional[_Iterable[int]] = ...) -> None: ...

class Pieces(_message.Message):
    __slots__ = ("data", "blocks")
    DATA_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    blocks: int
    def __init__(self, data: _Optional[bytes] = ..., blocks: _Optional[int] = ...) -> None: ...

class TakeAsk(_message.Message):
    __slots__ = ("source", "tenant", "keys", "lease", "insert", "wait_s")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    INSERT_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    source: str
    tenant: str
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    lease: str
    insert: bool
    wait_s: float
    def __init__(self, source: _Optional[str] = ..., tenant: _Optional[str] = ..., keys: _Optional[_Iterable[bytes]] = ..., lease: _Optional[str] = ..., insert: _Optional[bool] = ..., wait_s: _Optional[float] = ...) -> None: ...

class TransferAsk(_message.Message):
    __slots__ = ("target", "tenant", "keys", "insert", "wait_s")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    INSERT_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    target: str
    tenant: str
    keys: _containers.RepeatedScalarFieldContainer[bytes]
    insert: bool
    wait_s: float
    def __init__(self, target: _Optional[str] = ..., tenant: _Optional[str] = ..., keys: _Optional[_Iterable[bytes]] = ..., insert: _Optional[bool] = ..., wait_s: _Optional[float] = ...) -> None: ...

class ResizeAsk(_message.Message):
    __slots__ = ("segments", "wait_s")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    segments: int
    wait_s: float
    def __init__(self, segments: _Optional[int] = ..., wait_s: _Optional[float] = ...) -> None: ...

class ResizeDone(_message.Message):
    __slots__ = ("segments", "stuck", "busy", "reason")
    SEGMENTS_FIELD_NUMBER: _ClassVar[int]
    STUCK_FIELD_NUMBER: _ClassVar[int]
    BUSY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    segments: int
    stuck: int
    busy: int
    reason: str
    def __init__(self, segments: _Optional[int] = ..., stuck: _Optional[int] = ..., busy: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...
