"""The views of explore.py, one module each, and the modules that they share: settings.py, screen.py and toy.py."""
