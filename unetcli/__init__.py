"""Segment microscopy and medical images with the U-Net of Ronneberger, Fischer and Brox (2015)."""

import os

__version__ = "0.1.0"

# albumentations looks up a host when it is imported, unless this is set before (and waits for it when offline).
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Threads that wait for each other sleep instead of spinning; must be set before torch is imported. On two cores that
# another process shares, a training step then takes a third of the time; on idle cores it makes no difference.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
