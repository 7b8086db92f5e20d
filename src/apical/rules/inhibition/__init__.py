"""Inhibition: interneurons that carry the error by how far they leave their tonic rate."""
