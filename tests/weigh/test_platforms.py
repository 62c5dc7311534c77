"""Time, memory and energy of serving: beside arithmetic by hand, brute force, and speeds that others published."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steelyard.errors import UserError
from steelyard.spec import ModelSpec
from steelyard.weigh.devices import Device, Rows
from steelyard.weigh.flops import decode, prefill
from steelyard.weigh.inverse import Slo, cheapest, largest, largest_fit
from steelyard.weigh.platforms import Platform, serve
from steelyard.weigh.workload import Workload


def llama(hidden: int, ffn: int, blocks: int, heads: int, kv: int, **more: Any) -> ModelSpec:
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": ffn,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": 32000,
        "dtype": "bfloat16",
        **more,
    }
    return ModelSpec.from_config(config)


SEVEN = llama(4096, 11008, 32, 32, 32)
SEVENTY = llama(8192, 28672, 80, 64, 8)
PLAIN = Device("plain", "Plain", "gpu", 2**40, 1e12, {"bf16": 1e14}, 1e11, 0.0, 100.0, 3.6, "", 1.0, 1.0, 0.0)
"""A device of round figures without any overhead."""

# gpt-fast's README: 8 A100-80GB limited to 330 W, batch 1, a prompt of 5 tokens, 200 written; tokens a second.
GPT_FAST = [
    (SEVEN, 1, 16, 104.9),
    (SEVEN, 1, 8, 155.58),
    (SEVEN, 1, 5, 196.80),
    (SEVENTY, 1, 8, 19.13),
    (SEVENTY, 1, 5, 25.25),
    (SEVEN, 2, 16, 168.84),
    (SEVEN, 4, 16, 254.02),
    (SEVEN, 8, 16, 328.43),
    (SEVENTY, 2, 16, 21.32),
    (SEVENTY, 4, 16, 38.01),
    (SEVENTY, 8, 16, 62.50),
    (SEVENTY, 8, 8, 80.44),
    (SEVENTY, 8, 5, 90.77),
]


def test_published_speeds() -> None:
    errors = []
    for spec, count, bits, published in GPT_FAST:
        # 4 bits with a scale and a zero point of 16 bits for every 32 are 5 bits a weight.
        served = serve(spec, "a100-80gb", count=count, prompt=5, context=105, weight_bits=bits)
        errors.append(abs(served.tokens_per_second / published - 1))
    assert max(errors) < 0.25
    assert float(np.median(errors)) < 0.08


def test_a_token_by_hand() -> None:
    served = serve(SEVEN, PLAIN, prompt=100, context=1000, batch=2)
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    cache = 2 * 2 * 32 * 32 * 128 * 1000 * 2
    # What enters and leaves the matrices, of 2 bytes for each of 2 sequences.
    hidden = 4 * (32 * (4 * 8192 + 3 * (4096 + 11008)) + 36096)
    assert served.tpot == pytest.approx((2 * matrices + cache + hidden) / 1e12)
    assert served.bottleneck == "bandwidth"
    assert served.tokens_per_second == pytest.approx(2 / served.tpot)
    assert served.joules_per_token == pytest.approx(100 * served.tpot / 2)
    assert served.dollars_per_million == pytest.approx(1e6 * 3.6 / 3600 * served.tpot / 2)
    assert served.memory.weights == 2 * SEVEN.parameter_count()
    assert served.memory.cache == cache


def test_a_prompt_by_hand() -> None:
    served = serve(SEVEN, PLAIN, prompt=4096)
    pairs = 4096 * 4097 // 2
    blocks = 32 * (2 * 4096 * (4 * 4096**2 + 3 * 4096 * 11008) + 4 * 4096 * pairs)
    assert served.prefill.compute == pytest.approx(blocks / 1e14)  # the head reads one position: bandwidth
    assert served.prefill.bound == "compute"
    assert served.ttft == pytest.approx(served.prefill.total)


def test_operations_are_those_that_are_counted() -> None:
    workload = Workload(SEVENTY)
    assert workload.decode(500, 3).operations == decode(SEVENTY, 500, 3).total
    assert workload.prefill(500, 3).operations == prefill(SEVENTY, 500, 3, causal=True, logits="last").total


def test_a_tied_head_reads_the_table() -> None:
    tied, apart = (llama(256, 512, 2, 4, 4, tie_word_embeddings=tie) for tie in (True, False))
    table = 2 * 32000 * 256
    assert Workload(apart).weight_bytes - Workload(tied).weight_bytes == table
    assert Workload(apart).decode(8, 1).weight_bytes == Workload(tied).decode(8, 1).weight_bytes


def mixtral(experts: int, chosen: int) -> ModelSpec:
    config = {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 96,
        "num_local_experts": experts,
        "num_experts_per_tok": chosen,
        "dtype": "bfloat16",
    }
    return ModelSpec.from_config(config)


@pytest.mark.parametrize(("experts", "chosen"), [(8, 2), (8, 8), (4, 1)])
def test_a_batch_reads_the_experts_it_is_expected_to_choose(experts: int, chosen: int) -> None:
    workload = Workload(mixtral(experts, chosen))
    one = 2 * 3 * 64 * 128 * 2  # bytes of one expert of both blocks
    rest = workload.decode(4, 1).weight_bytes - chosen * one
    generator = np.random.default_rng(0)
    for batch in (1, 3, 16):
        draws = [
            len({e for _ in range(batch) for e in generator.choice(experts, chosen, replace=False)})
            for _ in range(3000)
        ]
        read = workload.decode(4, batch).weight_bytes - rest
        assert read / one == pytest.approx(np.mean(draws), rel=0.02)


def test_tensor_parallel_splits_and_exchanges() -> None:
    one, four = (serve(SEVENTY, PLAIN, count=count, prompt=64, context=512) for count in (1, 4))
    exchanged = 2 * 80 * 2 * (3 / 4) * (8192 * 2) / 1e11
    assert four.tpot == pytest.approx(one.tpot / 4 + exchanged)
    assert four.memory.weights == one.memory.weights / 4
    assert four.memory.cache == one.memory.cache / 4
    # No more parts of the cache than heads that are kept.
    sixteen = serve(SEVENTY, PLAIN, count=16, prompt=64, context=512)
    assert sixteen.memory.cache == one.memory.cache / 8


def test_pipelines_pay_in_time_and_gain_in_throughput() -> None:
    device = replace(PLAIN, link=1e15)
    alone = serve(SEVENTY, device, prompt=64, context=512, batch=2)
    piped = serve(SEVENTY, device, count=4, parallelism="pp", prompt=64, context=512, batch=8)
    assert piped.tpot == pytest.approx(alone.tpot, rel=1e-4)  # four waves of two sequences, one on each stage
    assert piped.tokens_per_second == pytest.approx(4 * alone.tokens_per_second, rel=1e-4)
    assert piped.ttft == pytest.approx(alone.ttft * (1 + 3 / 4), rel=1e-4)
    lonely = serve(SEVENTY, device, count=4, parallelism="pp", prompt=64, context=512)
    assert lonely.tokens_per_second == pytest.approx(
        1 / serve(SEVENTY, device, prompt=64, context=512).tpot, rel=1e-4
    )


def test_few_rows_take_longer() -> None:
    slow = replace(PLAIN, bandwidth=1e18, few_rows=(Rows(2, 0.1), Rows(32, 0.5), Rows(64, 1.0)))
    quick = replace(slow, few_rows=())
    for batch, share in ((1, 1.0), (2, 0.1), (8, 0.3), (32, 0.5), (100, 1.0)):
        pair = [Platform(device).step(Workload(SEVEN).decode(0, batch)).compute for device in (quick, slow)]
        work = Workload(SEVEN).decode(0, batch)
        attention = next(part.operations for part in work.parts if part.name == "attention") / 1e14
        assert pair[1] - attention == pytest.approx((pair[0] - attention) / share)


def test_an_encoder_has_no_next_token() -> None:
    spec = ModelSpec.from_config({"model_type": "bert", "architectures": ["BertModel"], "dtype": "float32"})
    served = serve(spec, "t4", prompt=128, batch=4)
    assert served.tpot is None and served.decode is None and served.memory.cache == 0
    assert served.tokens_per_second == pytest.approx(4 * 128 / served.ttft)
    assert json.loads(json.dumps(served.to_json()))["bottleneck"] == served.prefill.bound


@settings(deadline=None, max_examples=25)
@given(
    batch=st.integers(1, 64),
    prompt=st.integers(1, 4096),
    more=st.integers(0, 4096),
    bits=st.sampled_from([16.0, 8.0, 4.25]),
    count=st.sampled_from([1, 2, 8]),
    way=st.sampled_from(["tp", "pp"]),
)
def test_more_work_never_takes_less(batch: int, prompt: int, more: int, bits: float, count: int, way: Any) -> None:
    def run(**change: Any) -> Any:
        asked = {"count": count, "prompt": prompt, "context": prompt + more, "batch": batch, "weight_bits": bits}
        return serve(SEVEN, "h100-sxm", parallelism=way, **{**asked, **change})

    served, longer = run(), run(context=prompt + more + 512)
    assert 0 < served.ttft < math.inf and 0 < served.tpot < math.inf
    assert longer.tpot >= served.tpot and longer.memory.total > served.memory.total
    assert run(batch=batch + count).memory.total > served.memory.total
    assert run(prompt=prompt + more).ttft >= served.ttft


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, "at least one device"),
        ({"count": 2, "device": "desktop-ddr5"}, "no link"),
        ({"parallelism": "xp"}, "tp or pp"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"prompt": 0}, "prompt must be at least 1"),
        ({"prompt": 9, "context": 8}, "context must hold the prompt"),
        ({"weight_bits": 0}, "weight bits must be between"),
        ({"cache_bits": 1000}, "cache bits must be between"),
        ({"headroom": 1}, "headroom"),
        ({"number": "fp7"}, "no peak for 'fp7'"),
        ({"device": "abacus"}, "no device is called"),
    ],
)
def test_absurd_questions_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        serve(SEVEN, **{"device": "h100-sxm", **change})
    assert "\n" not in str(caught.value)


def test_unknown_architectures_have_no_time() -> None:
    spec = ModelSpec.build({"model_type": "novel"}, {"w.weight": ((64, 64), "F32")})
    with pytest.raises(UserError, match="no table"):
        serve(spec, "t4")


@pytest.mark.parametrize(
    ("device", "count", "way"), [("rtx-4090", 1, "tp"), ("t4", 2, "tp"), ("a100-40gb", 2, "pp")]
)
def test_the_largest_that_fits_is_the_largest(device: str, count: int, way: Any) -> None:
    asked: dict[str, Any] = {"count": count, "parallelism": way, "weight_bits": 8}
    fit = largest_fit(SEVEN, device, context=2048, batch=2, **asked)
    assert fit.largest_context is not None

    def fits(context: int, batch: int, bits: float = 8) -> bool:
        options = {**asked, "weight_bits": bits}
        return serve(SEVEN, device, prompt=context, context=context, batch=batch, **options).memory.fits

    assert fits(2048, fit.largest_batch) and not fits(2048, fit.largest_batch + 1)
    assert fits(fit.largest_context, 2) and not fits(fit.largest_context + 1, 2)
    assert fit.largest_bits is not None and fits(2048, 2, fit.largest_bits)
    assert fit.spare >= 0


def test_what_does_not_fit_is_said() -> None:
    fit = largest_fit(SEVENTY, "t4")
    assert (fit.largest_batch, fit.largest_context, fit.largest_bits) == (0, 0, None)
    assert fit.spare < 0


@given(limit=st.integers(0, 5000))
def test_search_finds_the_limit(limit: int) -> None:
    assert largest(lambda number: number <= limit, 4096) == min(limit, 4096)


def test_the_cheapest_is_the_cheapest() -> None:
    offers = cheapest(SEVEN, "ttft=200ms,tpot=20ms", prompt=1024)
    slo = Slo(0.2, 0.02)
    for offer in offers:
        served = serve(SEVEN, offer.device, count=offer.count, parallelism=offer.parallelism, prompt=1024)
        assert served == offer.serving and slo.met_by(served)
    prices = [offer.dollars_per_hour for offer in offers if offer.dollars_per_hour is not None]
    assert prices == sorted(prices)
    assert all(offer.dollars_per_hour is None for offer in offers[len(prices) :])
    # A tighter objective is met by fewer.
    tighter = {(o.device, o.count, o.parallelism) for o in cheapest(SEVEN, "ttft=100ms,tpot=10ms", prompt=1024)}
    assert tighter < {(o.device, o.count, o.parallelism) for o in offers}


def test_objectives_nobody_meets_name_the_nearest() -> None:
    with pytest.raises(UserError, match=r"8 x b200 \(tp\) comes nearest"):
        cheapest(SEVENTY, "tpot=1us")
    with pytest.raises(UserError, match="no platform holds the model"):
        cheapest(SEVENTY, "tpot=1s", among=["t4"], counts=[1])


@pytest.mark.parametrize("text", ["", "ttft", "ttft=0ms", "ttft=2", "tpot=1ms,tpot=2ms", "speed=1ms", "ttft=-1ms"])
def test_objectives_are_checked(text: str) -> None:
    with pytest.raises(UserError, match="write it like ttft=200ms,tpot=20ms"):
        Slo.parse(text)


def test_latents_are_kept_by_every_device() -> None:
    spec = ModelSpec.from_config({"model_type": "deepseek_v3", "num_hidden_layers": 4, "dtype": "bfloat16"})
    one, eight = (serve(spec, "h200", count=count, prompt=1024) for count in (1, 8))
    assert eight.memory.cache == one.memory.cache == 4 * (512 + 64) * 1024 * 2
    assert eight.memory.weights == one.memory.weights / 8


def test_states_do_not_grow() -> None:
    pytest.importorskip("steelyard.spec.architectures.mamba")
    spec = ModelSpec.from_config(
        {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "dtype": "bfloat16"}
    )
    assert largest_fit(spec, "t4", prompt=1).largest_context is None


def test_weights_of_other_streams_are_read_once() -> None:
    # An image model's weights work on patches, whatever number of tokens is asked for.
    vit = Workload(ModelSpec.from_config({"model_type": "vit", "dtype": "bfloat16"}))
    patches = vit.prefill(4096, 1)
    assert patches.weight_bytes > 0.95 * vit.weight_bytes
    assert patches == replace(vit.prefill(1, 1), positions=4096, exchanged=patches.exchanged)
    # The next token of an encoder-decoder needs neither the encoder nor projections of what it wrote.
    t5 = Workload(ModelSpec.from_config({"model_type": "t5", "dtype": "bfloat16"}))
    tensors = t5.spec.tensors.values()
    linear = sum(2 * tensor.elements for tensor in tensors if tensor.kind == "linear")
    encoder = sum(2 * t.elements for t in tensors if t.kind == "linear" and t.name.startswith("encoder."))
    crossed = sum(
        2 * t.elements for t in tensors if t.name.endswith(("EncDecAttention.k.weight", "EncDecAttention.v.weight"))
    )
    table = 2 * 32128 * 512
    assert t5.decode(1, 1).weight_bytes == pytest.approx(linear - encoder - crossed + table)
