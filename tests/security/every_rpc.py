"""Every method of every service of ours, as the descriptors name them, asked like a stranger would."""

import importlib
from collections.abc import Iterator
from pathlib import Path

import grpc

PROTO = Path(__file__).parents[2] / "proto/v1"


def services() -> dict[str, list[str]]:
    """Full name -> methods, of all .proto files there are: a new one needs no word here."""
    modules = [importlib.import_module(f"shoal.proto.v1.{path.stem}_pb2") for path in sorted(PROTO.glob("*.proto"))]
    found = [one for module in modules for one in module.DESCRIPTOR.services_by_name.values()]
    return {one.full_name: [method.name for method in one.methods] for one in found}


def methods_of(service: str) -> list[str]:
    return services()[f"shoal.v1.{service}"]


def ask(channel: grpc.Channel, service: str, method: str, metadata: tuple[tuple[str, str], ...]) -> str:
    """One empty message, whatever kind of call it is; the name of the status, OK for any answer."""

    def one() -> Iterator[bytes]:
        yield b""

    call = channel.stream_stream(f"/shoal.v1.{service}/{method}")(one(), metadata=metadata, timeout=10)
    try:
        next(call)
        return "OK"
    except StopIteration:
        return "OK"
    except grpc.RpcError as exc:
        return exc.code().name
    finally:
        call.cancel()
