"""The commands that work long, one module each: what is asked for, the run, its result."""
