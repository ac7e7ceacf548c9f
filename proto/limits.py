"""What one client may cost a frontend before and while its request is judged."""

from __future__ import annotations

from pydantic import Field

from shoal.proto.section import PositiveFloat, PositiveInt, Section


class LimitsConfig(Section):
    body_bytes: PositiveInt = Field(1 << 20, description="of one HTTP body or gRPC message")
    header_bytes: PositiveInt = Field(16 << 10, description="all headers of one request")
    choices: PositiveInt = Field(16, description="n of one request")
    stops: PositiveInt = Field(16, description="stop strings of one request")
    grammar_bytes: PositiveInt = Field(64 << 10, description="a JSON schema, regex or grammar")
    grammar_repeats: PositiveInt = Field(
        10_000, description="bounds of repetitions in it, multiplied where nested: they are what makes compiling slow"
    )
    header_s: PositiveFloat = Field(5.0, description="from the first byte of an HTTP request to its last header")
    body_s: PositiveFloat = Field(30.0, description="from then to the end of its body")
    reading_bytes: PositiveInt = Field(256 << 20, description="all bodies that one frontend is reading")
    connections: PositiveInt = Field(12_000, description="open HTTP connections of one frontend")
    streams: PositiveInt = Field(1000, description="calls at once on one gRPC connection")


__all__ = ["LimitsConfig"]
