"""Every name of vLLM's that the instance uses, private ones included, imported here and nowhere else below the
frontend.

vLLM calls none of this a stable interface, so another minor version is refused at import, and
tests/instance/test_vllm_seam.py checks each name and signature against the installed package.
"""

from typing import Any

from vllm import SamplingParams
from vllm.config import KVEventsConfig, KVTransferConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored
from vllm.distributed.kv_transfer import get_kv_transfer_group
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingType, StructuredOutputsParams
from vllm.v1.core.kv_cache_utils import get_block_hash, get_none_hash_seed
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequest
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.request import Request, RequestStatus
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder
from vllm.v1.worker.gpu_input_batch import CachedRequestState
from vllm.version import __version__ as VLLM_VERSION

from shoal.proto.errors import VersionMismatch

SUPPORTED_MINOR = "0.32"


def require_supported_version(version: str = VLLM_VERSION) -> None:
    """Raises VersionMismatch for another minor: the private names below were checked against this one only."""
    if ".".join(version.split(".")[:2]) != SUPPORTED_MINOR:
        raise VersionMismatch(
            f"vLLM {version} is installed, this build of Shoal works with vLLM {SUPPORTED_MINOR}.x only"
        )


require_supported_version()


def argument_parser() -> Any:
    """vLLM's own. Imported when it is asked for: worker processes never need it."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser  # noqa: PLC0415
    from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: PLC0415

    return make_arg_parser(FlexibleArgumentParser())


__all__ = [
    "SUPPORTED_MINOR",
    "VLLM_VERSION",
    "AllBlocksCleared",
    "AsyncEngineArgs",
    "AsyncScheduler",
    "BlockRemoved",
    "BlockStored",
    "CachedRequestState",
    "EngineCore",
    "EngineCoreOutputs",
    "EngineCoreRequest",
    "Executor",
    "FullAttentionSpec",
    "KVConnectorBase_V1",
    "KVConnectorMetadata",
    "KVConnectorRole",
    "KVConnectorWorkerMetadata",
    "KVEventsConfig",
    "KVTransferConfig",
    "LoRARequest",
    "MsgpackDecoder",
    "MsgpackEncoder",
    "PauseState",
    "Request",
    "RequestStatus",
    "SamplingParams",
    "SamplingType",
    "Scheduler",
    "SchedulerOutput",
    "StructuredOutputsParams",
    "SupportsHMA",
    "argument_parser",
    "current_platform",
    "get_block_hash",
    "get_kv_transfer_group",
    "get_none_hash_seed",
    "require_supported_version",
]
