"""The messages of BuildKit's protocols that are read or written here, by their field numbers.

Made from the table below when this is imported: what it does not name is kept by protobuf as it came and not
looked at. A field is `name number type`; `[type]` is repeated, `{type}` a map from strings. Enums are int32.

Source: moby/buildkit api/services/control/control.proto, frontend/gateway/pb/gateway.proto, session/*/*.proto
solver/errdefs/errdefs.proto, solver/pb/ops.proto; tonistiigi/fsutil types/wire.proto, stat.proto; googleapis
google/rpc/status.proto; containerd api/services/content/v1/content.proto.
"""

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from proa.errors import InvalidParameter

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "bool": _Field.TYPE_BOOL,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "uint32": _Field.TYPE_UINT32,
}

_MESSAGES: Final = {
    "Platform": "Architecture 1 string, OS 2 string, Variant 3 string",
    "BuildkitVersion": "package 1 string, version 2 string, revision 3 string",
    "WorkerRecord": (
        "ID 1 string, Labels 2 {string}, platforms 3 [Platform], BuildkitVersion 5 BuildkitVersion"
    ),
    "ListWorkersResponse": "record 1 [WorkerRecord]",
    "InfoResponse": "buildkitVersion 1 BuildkitVersion",
    "CacheEntry": "Type 1 string, Attrs 2 {string}",
    "CacheOptions": "Exports 4 [CacheEntry], Imports 5 [CacheEntry]",
    "Exporter": "Type 1 string, Attrs 2 {string}",
    "Definition": "def 1 [bytes]",
    "ControlSolveRequest": (
        "Ref 1 string, Definition 2 Definition, ExporterDeprecated 3 string,"
        "ExporterAttrsDeprecated 4 {string}, Session 5 string, Frontend 6 string, FrontendAttrs 7 {string},"
        "Cache 8 CacheOptions,"
        "Entitlements 9 [string], FrontendInputs 10 {Definition}, SourcePolicy 12 Definition,"
        "Exporters 13 [Exporter]"
    ),
    "ControlSolveResponse": "ExporterResponse 1 {string}",
    "StatusRequest": "Ref 1 string",
    "Timestamp": "seconds 1 int64, nanos 2 int32",
    "Vertex": (
        "digest 1 string, inputs 2 [string], name 3 string, cached 4 bool, started 5 Timestamp,"
        "completed 6 Timestamp, error 7 string"
    ),
    "VertexStatus": (
        "ID 1 string, vertex 2 string, name 3 string, current 4 int64, total 5 int64, timestamp 6 Timestamp,"
        "started 7 Timestamp, completed 8 Timestamp"
    ),
    "VertexLog": "vertex 1 string, timestamp 2 Timestamp, stream 3 int64, msg 4 bytes",
    "VertexWarning": (
        "vertex 1 string, level 2 int64, short 3 bytes, detail 4 [bytes], url 5 string, info 6 SourceInfo,"
        "ranges 7 [Range]"
    ),
    "StatusResponse": (
        "vertexes 1 [Vertex], statuses 2 [VertexStatus], logs 3 [VertexLog], warnings 4 [VertexWarning]"
    ),
    "BytesMessage": "data 1 bytes",
    "DiskUsageResponse": "record 1 [UsageRecord]",
    "UsageRecord": (
        "ID 1 string, Mutable 2 bool, InUse 3 bool, Size 4 int64, CreatedAt 6 Timestamp,"
        "LastUsedAt 7 Timestamp, UsageCount 8 int64, Description 9 string, RecordType 10 string,"
        "Shared 11 bool, Parents 12 [string]"
    ),
    "PruneRequest": (
        "filter 1 [string], all 2 bool, keepDuration 3 int64, reservedSpace 4 int64,"
        "maxUsedSpace 5 int64, minFreeSpace 6 int64"
    ),
    # ---- the gateway
    "APICap": "ID 1 string, Enabled 2 bool",
    "PongResponse": "FrontendAPICaps 1 [APICap], LLBCaps 2 [APICap], Workers 3 [WorkerRecord]",
    "SolveRequest": (
        "Definition 1 Definition, Frontend 2 string, FrontendOpt 3 {string}, allowResultReturn 5 bool,"
        "allowResultArrayRef 6 bool, CacheImports 12 [CacheEntry], FrontendInputs 13 {Definition},"
        "Evaluate 14 bool"
    ),
    "Ref": "id 1 string",
    "RefMap": "refs 1 {Ref}",
    "Result": "refDeprecated 1 string, ref 3 Ref, refs 4 RefMap, metadata 10 {bytes}",
    "SolveResponse": "ref 1 string, result 3 Result",
    "Any": "type_url 1 string, value 2 bytes",
    "RpcStatus": "code 1 int32, message 2 string, details 3 [Any]",
    "Position": "line 1 int32, character 2 int32",
    "Range": "start 1 Position, end 2 Position",
    "SourceInfo": "filename 1 string, data 2 bytes, language 4 string",
    "Source": "info 1 SourceInfo, ranges 2 [Range]",
    "ReturnRequest": "result 1 Result, error 2 RpcStatus",
    # ---- what the client serves
    "Packet": "type 1 int32, stat 2 Stat, ID 3 uint32, data 4 bytes",
    "Stat": (
        "path 1 string, mode 2 uint32, uid 3 uint32, gid 4 uint32, size 5 int64, modTime 6 int64,"
        "linkname 7 string, devmajor 8 int64, devminor 9 int64, xattrs 10 {bytes}"
    ),
    "CredentialsRequest": "Host 1 string",
    "CredentialsResponse": "Username 1 string, Secret 2 string",
    "GetSecretRequest": "ID 1 string",
    "GetSecretResponse": "data 1 bytes",
    "CheckAgentRequest": "ID 1 string",
    "ReadContentRequest": "digest 1 string, offset 2 int64, size 3 int64",
    "ReadContentResponse": "offset 1 int64, data 2 bytes",
    "WriteContentRequest": (
        "action 1 int32, ref 2 string, total 3 int64, expected 4 string, offset 5 int64, data 6 bytes"
    ),
}
_PACKAGE: Final = "proa.buildkit"


def _file() -> "descriptor_pb2.FileDescriptorProto":
    file = descriptor_pb2.FileDescriptorProto(name="proa/buildkit.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _MESSAGES.items():
        made = file.message_type.add(name=name)
        for text in fields.split(","):
            _add_field(made, *text.split())
    return file


def _add_field(owner: "descriptor_pb2.DescriptorProto", name: str, number: str, kind: str) -> None:
    field = owner.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if kind.startswith("["):
        field.label = _Field.LABEL_REPEATED
        kind = kind[1:-1]
    elif kind.startswith("{"):
        field.label = _Field.LABEL_REPEATED
        # What a map is on the wire, and to protobuf.
        entry = owner.nested_type.add(name=_entry_name(name))
        entry.options.map_entry = True
        _add_field(entry, "key", "1", "string")
        _add_field(entry, "value", "2", kind[1:-1])
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{owner.name}.{entry.name}"
        return
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{kind}"


def _entry_name(field: str) -> str:
    """As protoc calls it, and protobuf wants it."""
    return "".join(part[:1].upper() + part[1:] for part in field.split("_")) + "Entry"


_pool = descriptor_pool.DescriptorPool()
_pool.Add(_file())


def parsed(kind: Any, data: bytes) -> Any:
    """A message of the other side's. Raises InvalidParameter."""
    try:
        return kind.FromString(data)
    except message.DecodeError as exc:
        raise InvalidParameter(f"malformed message: {exc}") from exc


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))


APICap = _class("APICap")
AnyMessage = _class("Any")
BuildkitVersion = _class("BuildkitVersion")
BytesMessage = _class("BytesMessage")
CacheEntry = _class("CacheEntry")
CacheOptions = _class("CacheOptions")
CheckAgentRequest = _class("CheckAgentRequest")
ControlSolveRequest = _class("ControlSolveRequest")
ControlSolveResponse = _class("ControlSolveResponse")
CredentialsRequest = _class("CredentialsRequest")
CredentialsResponse = _class("CredentialsResponse")
Definition = _class("Definition")
DiskUsageResponse = _class("DiskUsageResponse")
Exporter = _class("Exporter")
GetSecretRequest = _class("GetSecretRequest")
GetSecretResponse = _class("GetSecretResponse")
InfoResponse = _class("InfoResponse")
ListWorkersResponse = _class("ListWorkersResponse")
Packet = _class("Packet")
Platform = _class("Platform")
PongResponse = _class("PongResponse")
Position = _class("Position")
PruneRequest = _class("PruneRequest")
Range = _class("Range")
ReadContentRequest = _class("ReadContentRequest")
ReadContentResponse = _class("ReadContentResponse")
Ref = _class("Ref")
Result = _class("Result")
ReturnRequest = _class("ReturnRequest")
RpcStatus = _class("RpcStatus")
SolveRequest = _class("SolveRequest")
SolveResponse = _class("SolveResponse")
Source = _class("Source")
SourceInfo = _class("SourceInfo")
Stat = _class("Stat")
StatusRequest = _class("StatusRequest")
StatusResponse = _class("StatusResponse")
Timestamp = _class("Timestamp")
UsageRecord = _class("UsageRecord")
Vertex = _class("Vertex")
VertexLog = _class("VertexLog")
VertexStatus = _class("VertexStatus")
VertexWarning = _class("VertexWarning")
WorkerRecord = _class("WorkerRecord")
WriteContentRequest = _class("WriteContentRequest")
