"""Dataset preparation and evaluation for MUSDB18: from `.stem.mp4` files on disk to a report.

The package is a walk; each step reads the files of the step before and writes its own. Functions live in the module
named after the thing they handle (`musdbkit.tracks.find_tracks`, `musdbkit.convert.convert`); nothing is re-exported
here, and importing this package loads nothing else.
"""

__version__ = "0.1.0"
