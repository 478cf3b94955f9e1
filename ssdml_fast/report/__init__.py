"""The report of a run: one HTML file that needs nothing else, for people to look at."""
