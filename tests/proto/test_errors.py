"""The error tree is closed: each class says who is at fault, and its names exist in HTTP and gRPC."""

import http

import grpc
import pytest

from shoal.proto import errors
from shoal.proto.errors import ClientFault, InvalidArgument, Overloaded, ShoalError

CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES)
def test_codes_exist_and_agree_on_who_is_at_fault(kind):
    assert http.HTTPStatus(kind.http_status)
    assert kind.grpc_code in grpc.StatusCode.__members__
    assert issubclass(kind, ShoalError)
    assert (400 <= kind.http_status < 500) == issubclass(kind, (ClientFault, Overloaded))


def test_every_class_is_in_the_drawing_and_in_the_public_names():
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and issubclass(v, ShoalError)}
    assert defined == set(errors.__all__)
    assert all(name in errors.__doc__ for name in defined)


def test_a_refused_field_is_told_with_limit_and_given_value():
    assert str(InvalidArgument("n", limit="at most 16", given=99)) == "n: must be at most 16, given 99"
