"""auto-round: signed-gradient rounding at one width, or its AutoScheme for an average width."""

import json

import torch
from common import Run, linears

run = Run()
model = run.model()
names = list(linears(model))


def work():
    from auto_round import AutoRound
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model_path)
    tokens = run.tokens()
    settings = {
        "iters": int(run.options.get("iters", "200")),
        "nsamples": len(tokens),
        "seqlen": tokens.shape[1],
        "batch_size": 8,
        "device_map": "cpu",
        "dataset": [{"input_ids": row[None], "attention_mask": torch.ones_like(row)[None]} for row in tokens],
    }
    if "average" in run.options:
        from auto_round import AutoScheme

        # AutoScheme takes the name of a file of texts. Two windows a text: what is shorter than one is dropped.
        texts = [tokenizer.decode(torch.cat([row, tokens[(i + 1) % len(tokens)]])) for i, row in enumerate(tokens)]
        named = run.out / "texts.json"
        named.write_text(json.dumps([{"text": text} for text in texts]))
        settings["dataset"] = str(named)
        scheme = AutoScheme(avg_bits=float(run.options["average"]), options=("W2A16", "W4A16", "W8A16"))
        rounder = AutoRound(model, tokenizer, scheme=scheme, **settings)
    else:
        rounder = AutoRound(
            model, tokenizer, bits=run.integer("bits"), group_size=run.integer("group"), sym=True, **settings
        )
    return rounder


rounder = run.timed(work)
tuned, _ = run.timed(rounder.quantize)
modules = dict(tuned.named_modules())
decoded = {f"{name}.weight": modules[name].weight.detach().clone() for name in names}
saved = run.out / "saved"
run.timed(lambda: rounder.save_quantized(str(saved), format="auto_round"))
run.finish(decoded, saved)
