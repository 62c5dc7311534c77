"""Other people's quantized folders, one file for each way of storing."""
