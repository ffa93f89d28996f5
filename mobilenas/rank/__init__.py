"""Does a supernet order networks as stand-alone training does? Truth, draw, figures, baselines."""
