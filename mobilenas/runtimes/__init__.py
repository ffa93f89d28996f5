"""Runtimes: each makes files of a network for one way to deploy it, runs and times them."""
