"""Sections: make the parts of a report; there is one file for each part."""
