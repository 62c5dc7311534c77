"""llm-compressor: one-shot GPTQ (or its round-to-nearest) of every linear layer, saved compressed."""

from common import Run, linears

run = Run()
model = run.model()
names = list(linears(model))


def work():
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier

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
    if run.options["method"] == "gptq":
        recipe = [GPTQModifier(config_groups=groups, ignore=ignore)]
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
        oneshot(model=model, recipe=[QuantizationModifier(config_groups=groups, ignore=ignore)])


run.timed(work)
modules = dict(model.named_modules())
decoded = {f"{name}.weight": modules[name].weight.detach().clone() for name in names}
saved = run.out / "saved"
run.timed(lambda: model.save_pretrained(saved, save_compressed=True))
run.finish(decoded, saved)
