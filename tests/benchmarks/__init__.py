"""The benchmark behind ``make bench``: every side in one run on one machine, interleaved, judged by ratios."""
