"""Label Studio's ML backend protocol in front of X2SAM: JSON in, JSON out.

Start at :func:`backend.app.create_app`. Only the entry points (:mod:`backend.wsgi`, :mod:`backend.cli`) build an
engine; everything else takes it from its caller and needs no PyTorch.
"""
