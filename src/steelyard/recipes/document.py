"""YAML with the line of every value: see `steelyard.yaml_document`, which merging reads its recipes with too."""

from steelyard.yaml_document import Document, Place, read_document

__all__ = ["Document", "Place", "read_document"]
