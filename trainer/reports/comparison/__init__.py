"""Comparisons: compares several runs on one page, with confidence intervals for differences."""
