"""Training under quantization: the codes and scales of a quantized model are trained, its size stays."""
