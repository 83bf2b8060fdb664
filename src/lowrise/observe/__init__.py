"""One pass over the calibration windows, statistics that accumulate, no activation kept."""
