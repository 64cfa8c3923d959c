"""The views of explore.py, a file each, and what they share: settings.py and screen.py."""
