"""Who did it and where: processes, workloads, users, routes."""

from sensor.context.enrich import Context

__all__ = ["Context"]
