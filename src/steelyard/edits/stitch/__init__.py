"""Two models in one: stitched together at their blocks, or one attending to the other over bridges."""
