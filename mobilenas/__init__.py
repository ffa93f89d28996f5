"""mobilenas: hardware-aware neural architecture search for mobile networks."""

__version__ = "0.1.0"
