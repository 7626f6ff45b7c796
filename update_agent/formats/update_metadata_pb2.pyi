from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ContentInfo(_message.Message):
    __slots__ = ["hash", "size"]
    HASH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    hash: bytes
    size: int
    def __init__(self, size: _Optional[int] = ..., hash: _Optional[bytes] = ...) -> None: ...

class Extent(_message.Message):
    __slots__ = ["num_blocks", "start_block"]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    START_BLOCK_FIELD_NUMBER: _ClassVar[int]
    num_blocks: int
    start_block: int
    def __init__(self, start_block: _Optional[int] = ..., num_blocks: _Optional[int] = ...) -> None: ...

class Manifest(_message.Message):
    __slots__ = ["block_size", "minor_version", "new_partition_info", "noop_operations", "old_partition_info", "partition_operations", "partitions", "procedures", "signatures_offset", "signatures_size"]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MINOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    NEW_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    NOOP_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    OLD_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    PARTITIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    PROCEDURES_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIGNATURES_SIZE_FIELD_NUMBER: _ClassVar[int]
    block_size: int
    minor_version: int
    new_partition_info: ContentInfo
    noop_operations: _containers.RepeatedCompositeFieldContainer[Operation]
    old_partition_info: ContentInfo
    partition_operations: _containers.RepeatedCompositeFieldContainer[Operation]
    partitions: _containers.RepeatedCompositeFieldContainer[Partition]
    procedures: _containers.RepeatedCompositeFieldContainer[Procedure]
    signatures_offset: int
    signatures_size: int
    def __init__(self, partition_operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., noop_operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., old_partition_info: _Optional[_Union[ContentInfo, _Mapping]] = ..., new_partition_info: _Optional[_Union[ContentInfo, _Mapping]] = ..., procedures: _Optional[_Iterable[_Union[Procedure, _Mapping]]] = ..., block_size: _Optional[int] = ..., signatures_offset: _Optional[int] = ..., signatures_size: _Optional[int] = ..., minor_version: _Optional[int] = ..., partitions: _Optional[_Iterable[_Union[Partition, _Mapping]]] = ...) -> None: ...

class Operation(_message.Message):
    __slots__ = ["data_length", "data_offset", "data_sha256_hash", "dst_extents", "dst_length", "src_extents", "src_length", "src_sha256_hash", "type"]
    DATA_LENGTH_FIELD_NUMBER: _ClassVar[int]
    DATA_OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_SHA256_HASH_FIELD_NUMBER: _ClassVar[int]
    DST_EXTENTS_FIELD_NUMBER: _ClassVar[int]
    DST_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SRC_EXTENTS_FIELD_NUMBER: _ClassVar[int]
    SRC_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SRC_SHA256_HASH_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    data_length: int
    data_offset: int
    data_sha256_hash: bytes
    dst_extents: _containers.RepeatedCompositeFieldContainer[Extent]
    dst_length: int
    src_extents: _containers.RepeatedCompositeFieldContainer[Extent]
    src_length: int
    src_sha256_hash: bytes
    type: int
    def __init__(self, type: _Optional[int] = ..., data_offset: _Optional[int] = ..., data_length: _Optional[int] = ..., src_extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., src_length: _Optional[int] = ..., dst_extents: _Optional[_Iterable[_Union[Extent, _Mapping]]] = ..., dst_length: _Optional[int] = ..., data_sha256_hash: _Optional[bytes] = ..., src_sha256_hash: _Optional[bytes] = ...) -> None: ...

class Partition(_message.Message):
    __slots__ = ["fec_extent", "hash_tree_extent", "new_partition_info", "old_partition_info", "operations", "partition_name", "version"]
    FEC_EXTENT_FIELD_NUMBER: _ClassVar[int]
    HASH_TREE_EXTENT_FIELD_NUMBER: _ClassVar[int]
    NEW_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    OLD_PARTITION_INFO_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    fec_extent: bytes
    hash_tree_extent: bytes
    new_partition_info: ContentInfo
    old_partition_info: ContentInfo
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    partition_name: bytes
    version: bytes
    def __init__(self, partition_name: _Optional[bytes] = ..., old_partition_info: _Optional[_Union[ContentInfo, _Mapping]] = ..., new_partition_info: _Optional[_Union[ContentInfo, _Mapping]] = ..., operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., hash_tree_extent: _Optional[bytes] = ..., fec_extent: _Optional[bytes] = ..., version: _Optional[bytes] = ...) -> None: ...

class Procedure(_message.Message):
    __slots__ = ["new_info", "old_info", "operations", "type"]
    NEW_INFO_FIELD_NUMBER: _ClassVar[int]
    OLD_INFO_FIELD_NUMBER: _ClassVar[int]
    OPERATIONS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    new_info: ContentInfo
    old_info: ContentInfo
    operations: _containers.RepeatedCompositeFieldContainer[Operation]
    type: int
    def __init__(self, type: _Optional[int] = ..., operations: _Optional[_Iterable[_Union[Operation, _Mapping]]] = ..., old_info: _Optional[_Union[ContentInfo, _Mapping]] = ..., new_info: _Optional[_Union[ContentInfo, _Mapping]] = ...) -> None: ...

class Signature(_message.Message):
    __slots__ = ["data", "unpadded_signature_size", "version"]
    DATA_FIELD_NUMBER: _ClassVar[int]
    UNPADDED_SIGNATURE_SIZE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    unpadded_signature_size: int
    version: int
    def __init__(self, version: _Optional[int] = ..., data: _Optional[bytes] = ..., unpadded_signature_size: _Optional[int] = ...) -> None: ...

class Signatures(_message.Message):
    __slots__ = ["signatures"]
    SIGNATURES_FIELD_NUMBER: _ClassVar[int]
    signatures: _containers.RepeatedCompositeFieldContainer[Signature]
    def __init__(self, signatures: _Optional[_Iterable[_Union[Signature, _Mapping]]] = ...) -> None: ...
