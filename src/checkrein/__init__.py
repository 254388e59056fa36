"""Checkrein: the runtime governance plane for AI agents."""

__version__ = "0.1.0"
