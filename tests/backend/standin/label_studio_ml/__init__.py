"""A stand-in with the surface of label-studio-ml 2.x that a model meets; see requirements-label-studio-ml.txt."""
