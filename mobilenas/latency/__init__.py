"""Measuring latency: tables of the rows of a space, on this host or through a command."""
