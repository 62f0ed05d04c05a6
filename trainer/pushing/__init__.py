"""Pushing: uploads files to model repositories on the hub, one commit for each push."""
