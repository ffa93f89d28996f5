"""Run folders: what a command was asked for, what it has done so far, and its result."""

from mobilenas.runs.folder import Kind, RunFolder

__all__ = ["Kind", "RunFolder"]
