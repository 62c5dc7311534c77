"""Alignment of networks that were trained apart: orders, soft maps, barriers, and merges that use them."""
