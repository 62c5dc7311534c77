"""What is in a model, and what it costs to store, train and serve: from headers and config alone. Torch-free.

The package is also the function `steelyard.weigh(model)`.
"""

from steelyard.packages import make_verb

make_verb(__name__)
