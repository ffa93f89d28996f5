"""Does a supernet order networks as stand-alone training does? Strata and metrics."""
