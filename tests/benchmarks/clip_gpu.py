"""How well a GPU is used: its busy share while a command works, and the share of its matrix peak that a rate of images means.

For ``tests.benchmarks.clip``. The peak is measured here, as bf16 products of large square matrices, since published ones are never reached.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

SIDE, TIMES = 8192, 50


def peak_flops() -> float:
    """Floating-point operations a second of bf16 matrix products."""
    import torch

    one, other = (torch.randn(SIDE, SIDE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        one @ other
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(TIMES):
        one @ other
    torch.cuda.synchronize()
    return float(2 * SIDE**3 * TIMES / (time.perf_counter() - began))


def flops_of(model: str, caption: str) -> float:
    """Operations that one image and its caption take, padding left out."""
    import open_clip
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from wat2mds.models import short_text

    tower = open_clip.create_model(model).eval()
    tokens = open_clip.get_tokenizer(model)([caption])
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        tower.encode_image(torch.zeros(1, 3, *tower.visual.image_size))
        short_text.encode(tower, tokens[:, : int(short_text.lengths(tower, tokens).max())])
    return float(counter.get_total_flops())


def busy_share(work: Callable[[], dict[str, Any]]) -> float:
    """Mean share of time with a kernel on the GPU, from nvidia-smi, while ``work`` measured: from its ``began``, ``wall`` seconds."""
    command = ["nvidia-smi", "--query-gpu=timestamp,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    sampler = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        found = work()
    finally:
        sampler.terminate()
        lines = sampler.communicate()[0].splitlines()
    seen = []
    for line in lines:
        stamp, _, share = line.rpartition(",")
        at = datetime.strptime(stamp.strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp()
        if found["began"] <= at <= found["began"] + found["wall"]:
            seen.append(float(share) / 100)
    return statistics.mean(seen) if seen else float("nan")


def show(model: str, caption: str, rate: float, work: Callable[[], dict[str, Any]]) -> None:
    busy, each, peak = busy_share(work), flops_of(model, caption), peak_flops()
    print(
        f"\n  {model} on the GPU: busy {busy:.0%} of the time; {rate:,.0f} images/s at {each / 1e9:.1f} GFLOP are"
        f" {rate * each / peak:.1%} of {peak / 1e12:.0f} TFLOP/s, the peak measured on it"
    )
