"""HQQ: half-quadratic quantization of every linear layer."""

import os

import torch
from common import Run, linears

run = Run()
model = run.model()


def work():
    from hqq.core.quantize import BaseQuantizeConfig, HQQLinear

    config = BaseQuantizeConfig(nbits=run.integer("bits"), group_size=run.integer("group"))
    made = {}
    for name, layer in linears(model).items():
        kind = layer.weight.dtype
        made[name] = HQQLinear(layer, config, compute_dtype=kind, device="cpu", del_orig=False)
    return made


made = run.timed(work)
saved = run.out / "saved"
os.makedirs(saved, exist_ok=True)
# Everything a reader needs: codes, scales and zero points of the layers, the other tensors as they were.
state = {}
for name, layer in made.items():
    state[f"{name}.W_q"] = layer.W_q.data
    state[f"{name}.scale"] = layer.meta["scale"]
    state[f"{name}.zero"] = layer.meta["zero"]
replaced = {f"{name}.weight" for name in made}
seen = set()
for name, tensor in model.state_dict().items():
    if name not in replaced and tensor.data_ptr() not in seen:
        seen.add(tensor.data_ptr())
        state[name] = tensor
from safetensors.torch import save_file  # noqa: E402

run.timed(lambda: save_file({k: v.contiguous() for k, v in state.items()}, saved / "model.safetensors"))
with torch.no_grad():
    run.finish({f"{name}.weight": layer.dequantize() for name, layer in made.items()}, saved)
