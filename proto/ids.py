"""Names of things that cross process borders. Plain strings on the wire; the aliases keep them apart in code."""

from typing import NewType

RequestId = NewType("RequestId", str)  # one per choice of a client request, unique in the cluster
InstanceId = NewType("InstanceId", str)
FrontendId = NewType("FrontendId", str)
Tenant = NewType("Tenant", str)

__all__ = ["FrontendId", "InstanceId", "RequestId", "Tenant"]
