"""Tells an application protocol from the first bytes of a flow, on any port: bytes in, findings out.

Nothing here reads or writes anything, and no input raises.
"""

from __future__ import annotations

from sensor.protocols.finding import Finding
from sensor.protocols.flow import Flow

__all__ = ["Finding", "Flow"]
