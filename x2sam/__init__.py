"""X2SAM: segment anything in pictures and videos from clicks, boxes, masks and words.

The package needs arrays only; it knows nothing of HTTP, Flask or Label Studio. Start at
:class:`x2sam.inference.engine.Engine`; the shared vocabulary is in :mod:`x2sam.structures`.
"""

__version__ = "0.1.0"
