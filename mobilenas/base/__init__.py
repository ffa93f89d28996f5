"""Below everything: errors, files, units, settings, processes, random numbers, progress."""
