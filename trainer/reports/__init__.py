"""Reports: the results of runs as one self-contained HTML file."""
