"""Hostbrake: brakes for AI agents on GPU nodes."""

__version__ = "0.1.0"
