"""optimum-quanto: `quantize` and `freeze`."""

import os

from common import Run, linears

run = Run()
model = run.model()
names = list(linears(model))


def work():
    from optimum.quanto import freeze, qint2, qint4, qint8, quantize

    kind = {2: qint2, 4: qint4, 8: qint8}[run.integer("bits")]
    quantize(model, weights=kind, include=names)
    freeze(model)


run.timed(work)
saved = run.out / "saved"
os.makedirs(saved, exist_ok=True)
from safetensors.torch import save_file  # noqa: E402

state, seen = {}, set()
for name, tensor in model.state_dict().items():
    if tensor.data_ptr() in seen and tensor.numel():
        continue
    seen.add(tensor.data_ptr())
    state[name] = tensor.contiguous()
run.timed(lambda: save_file(state, saved / "model.safetensors"))
modules = dict(model.named_modules())
run.finish({f"{name}.weight": modules[name].weight.dequantize() for name in names}, saved)
