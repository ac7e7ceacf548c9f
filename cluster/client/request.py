"""Keyword arguments to a GenerateRequest, and replies to a completed answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from shoal.proto.v1 import inference_pb2 as pb

SAMPLING_FIELDS = frozenset(pb.SamplingParams.DESCRIPTOR.fields_by_name)
MAX_REQUEST_ID_CHARS = 120  # the server's limit less what a repeated attempt appends


class Words(NamedTuple):
    """What a client says of a request beside its prompt and sampling: fields of GenerateRequest."""

    request_id: str
    model: str = ""
    priority: int = 0
    deadline_s: float = 0.0
    program: str = ""
    service_class: str = ""


def build_request(
    prompt: str | None, token_ids: Sequence[int] | None, words: Words, sampling: Mapping[str, Any]
) -> pb.GenerateRequest:
    """Raises TypeError for an unknown argument and ValueError for one that no request can carry."""
    if (prompt is None) == (token_ids is None):
        raise TypeError("give either prompt or token_ids")
    if (chars := len(words.request_id)) > MAX_REQUEST_ID_CHARS:
        raise ValueError(f"request_id: must be at most {MAX_REQUEST_ID_CHARS} characters, given {chars}")
    request = pb.GenerateRequest(**words._asdict())
    if prompt is not None:
        request.text = prompt
    else:
        request.token_ids.ids.extend(token_ids or ())
    request.sampling.CopyFrom(build_sampling(sampling))
    return request


def build_sampling(arguments: Mapping[str, Any]) -> pb.SamplingParams:
    """Names are those of SamplingParams in inference.proto; None means absent; `stop` and `choice` may be plain."""
    unknown = set(arguments) - SAMPLING_FIELDS
    if unknown:
        raise TypeError(f"unknown sampling arguments: {sorted(unknown)}")
    fields = {name: value for name, value in arguments.items() if value is not None}
    if isinstance(fields.get("stop"), str):
        fields["stop"] = [fields["stop"]]
    if "choice" in fields and not isinstance(fields["choice"], pb.Choices):
        fields["choice"] = pb.Choices(choices=fields["choice"])
    return pb.SamplingParams(**fields)


@dataclass(slots=True)
class Choice:
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    finish_reason: str = ""
    stop_reason: str = ""


@dataclass(slots=True)
class Answer:
    """All replies of one request joined."""

    request_id: str = ""
    choices: list[Choice] = field(default_factory=list)
    prompt_logprobs: list[pb.TokenLogprobs] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    instances: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text if self.choices else ""

    def add(self, reply: pb.GenerateReply) -> None:
        while len(self.choices) <= reply.choice:
            self.choices.append(Choice())
        choice = self.choices[reply.choice]
        choice.text += reply.text
        choice.token_ids.extend(reply.token_ids)
        choice.logprobs.extend(reply.logprobs)
        choice.finish_reason = reply.finish_reason or choice.finish_reason
        choice.stop_reason = reply.stop_reason or choice.stop_reason
        self.request_id = reply.request_id
        self.prompt_logprobs.extend(reply.prompt_logprobs)
        if reply.instance not in self.instances:
            self.instances.append(reply.instance)
        if reply.HasField("usage"):
            self.prompt_tokens, self.cached_tokens = reply.usage.prompt_tokens, reply.usage.cached_tokens
            self.output_tokens += reply.usage.output_tokens


def join(replies: Iterable[pb.GenerateReply]) -> Answer:
    answer = Answer()
    for reply in replies:
        answer.add(reply)
    return answer


__all__ = ["Answer", "Choice", "Words", "build_request", "build_sampling", "join"]
