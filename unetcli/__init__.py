"""Segment microscopy and medical images with the U-Net of Ronneberger, Fischer and Brox (2015)."""

import os

__version__ = "0.1.0"

# albumentations looks up a host when it is imported, unless this is set before (and waits for it when offline).
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
