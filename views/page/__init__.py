"""The interactive page of explore.py."""
