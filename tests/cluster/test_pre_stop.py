"""A pod that must go waits for its clients or empties its instances, and not for ever."""

from collections.abc import Iterator
from typing import Any

from shoal.cluster.pre_stop import await_true, empty, open_requests, read_page
from shoal.proto.errors import NotFound
from shoal.proto.v1 import controller_pb2 as pb

BUSY = '# TYPE shoal_frontend_open_requests gauge\nshoal_frontend_open_requests{frontend="a"} 2.0\nother{} 9\n'


def test_open_requests_are_read_from_the_page() -> None:
    assert open_requests(BUSY) == 2
    assert open_requests(BUSY.replace("2.0", "0.0")) == 0


def test_it_asks_until_the_answer_is_yes_and_no_longer() -> None:
    answers: Iterator[bool] = iter([False, False, True, False])
    assert await_true(lambda: next(answers), wait_s=60, poll_s=0)
    assert next(answers) is False


def test_it_does_not_wait_for_ever() -> None:
    assert not await_true(lambda: False, wait_s=0, poll_s=0)


def test_a_frontend_that_is_gone_has_no_clients() -> None:
    assert read_page("http://127.0.0.1:9/metrics") == ""


class FakeController:
    """Instances by address; one that drains is gone after `patience` looks. The last one may not drain."""

    def __init__(self, **addresses: str) -> None:
        self.addresses, self.draining, self.looks, self.scaled = addresses, {}, 2, 0  # type: ignore[var-annotated]

    def status(self, *, patience_s: float = 0.0) -> pb.StatusReply:
        for one in list(self.draining):
            self.draining[one] -= 1
            if self.draining[one] < 0:
                del self.draining[one], self.addresses[one]
        states = {one: "draining" if one in self.draining else "ready" for one in self.addresses}
        return pb.StatusReply(
            instances=[pb.InstanceStatus(id=k, address=f"{v}:77", state=states[k]) for k, v in self.addresses.items()]
        )

    def drain(self, instance_id: str) -> str:
        if len(self.addresses) - len(self.draining) == 1:
            raise NotFound("id: must be not the last instance")
        self.draining[instance_id] = self.looks
        return ""

    def scale(self, instances: int) -> str:
        self.scaled = instances
        return ""


def test_a_pods_instances_are_emptied_and_as_many_asked_for_again() -> None:
    controller: Any = FakeController(i0="10.0.0.1", i1="10.0.0.2", i2="10.0.0.2", i3="10.0.0.3")
    assert empty(controller, "10.0.0.2", wait_s=60, poll_s=0)
    assert set(controller.addresses) == {"i0", "i3"} and controller.scaled == 4


def test_the_last_instance_of_all_stays_until_the_pod_ends() -> None:
    controller: Any = FakeController(i0="10.0.0.2")
    assert not empty(controller, "10.0.0.2", wait_s=60, poll_s=0)
    assert controller.scaled == 0 and controller.addresses


def test_one_that_will_not_leave_is_replaced_all_the_same() -> None:
    controller: Any = FakeController(i0="10.0.0.1", i1="10.0.0.2")
    controller.looks = 10**9
    assert not empty(controller, "10.0.0.2", wait_s=0, poll_s=0)
    assert controller.scaled == 2
