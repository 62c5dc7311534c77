"""llm-compressor: one-shot GPTQ, AWQ or round-to-nearest of every linear layer, saved compressed."""

import torch
from common import Run, linears

run = Run()
model = run.model()
names = list(linears(model))


def work():
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
    from llmcompressor.modifiers.transform.awq import AWQModifier
    from llmcompressor.pipelines.cache import IntermediatesCache

    group = run.integer("group")
    arguments = QuantizationArgs(
        num_bits=run.integer("bits"),
        type="int",
        symmetric=run.options.get("symmetric", "1") == "1",
        strategy="group",
        group_size=group,
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=arguments)}
    ignore = [] if "lm_head" not in dict(model.named_modules()) else ["lm_head"]
    ignore += [name for name, _ in model.named_modules() if name.endswith("pooler.dense")]
    tokens = run.tokens()
    rounding = QuantizationModifier(config_groups=groups, ignore=ignore)
    if run.options["method"] in ("gptq", "awq"):
        recipe = [GPTQModifier(config_groups=groups, ignore=ignore)]
        if run.options["method"] == "awq":
            # Pages pinned for an accelerator: this release asks for them without one too, and changes no number.
            if not torch.accelerator.is_available():
                IntermediatesCache.pin_memory = lambda self, batch: None
            recipe = [AWQModifier(), rounding]
        data = Dataset.from_dict(
            {"input_ids": tokens.tolist(), "attention_mask": [[1] * tokens.shape[1]] * len(tokens)}
        )
        oneshot(
            model=model,
            recipe=recipe,
            dataset=data,
            num_calibration_samples=len(tokens),
            max_seq_length=tokens.shape[1],
        )
    else:
        oneshot(model=model, recipe=[rounding])


run.timed(work)
modules = dict(model.named_modules())
decoded = {f"{name}.weight": modules[name].weight.detach().clone() for name in names}
# AWQ moves scales into the norms before the linear layers.
changed = [name for name in modules if run.options["method"] == "awq" and name.endswith("norm")]
decoded |= {f"{name}.weight": modules[name].weight.detach().clone() for name in changed}
saved = run.out / "saved"
run.timed(lambda: model.save_pretrained(saved, save_compressed=True))
run.finish(decoded, saved)
