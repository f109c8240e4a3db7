"""Where the time of our training goes: shares of processor time by kind of work, of one pass over some pairs.

    python benchmarks/training_profile.py --data FOLDER [--pairs 32] [--compile 1] [--save]

FOLDER is what training_data.py wrote. Forward and backward of all packs at a budget of 1,000 tokens, after one pass to
warm up; the optimizer and the reference pass are not in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import our_peer
from side_by_side import processor

RESULT = Path(__file__).parent / "results" / "training_profile.json"
BUDGET = 1000
KINDS = {  # what a kernel's name says; all else is elementwise work, copies and bookkeeping
    "matrix products of layers and output": ("aten::mm", "aten::addmm", "aten::addmm_"),
    "matrix products of attention": ("aten::bmm", "aten::baddbmm", "aten::baddbmm_"),
    "softmax": ("aten::_softmax", "aten::_softmax_backward_data", "aten::exp_", "aten::amax", "aten::sum"),
}


def profiled(asked: argparse.Namespace) -> dict[str, Any]:
    """Shares of processor time by kind."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from psychocounsel.models.weights import load_causal, load_tokenizer
    from psychocounsel.training.encoding import Encoder
    from psychocounsel.training.packed import PackedPolicy, compiled, opened
    from psychocounsel.training.packs import bins, make_pack

    torch.set_num_threads(1)
    model = str(asked.data / "lm")
    groups = list(Encoder(load_tokenizer(model), our_peer.LENGTH).groups(our_peer.examples(asked)))
    packed = opened(PackedPolicy(load_causal(model))).eval()
    if asked.compile:
        compiled(packed)

    def once() -> None:
        for places in bins([group.tokens for group in groups], BUDGET):
            (packed(make_pack([groups[place] for place in places])) * 0.01).sum().backward()

    once()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        once()
    times: Counter[str] = Counter()
    for event in found.key_averages():
        kind = next((kind for kind, names in KINDS.items() if event.key in names), "elementwise, copies, the rest")
        times[kind] += event.self_cpu_time_total
    whole = sum(times.values())
    return {
        "shares": {kind: round(times[kind] / whole, 3) for kind in [*KINDS, "elementwise, copies, the rest"]},
        "pairs": sum(len(group.pairs) for group in groups),
        "tokens": sum(group.tokens for group in groups),
        "reply_tokens": sum(len(reply) for group in groups for reply in group.replies),
        "compiled": bool(asked.compile),
        "shape": asked.shape,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--shape", choices=("paper", "all"), default="paper")
    parser.add_argument("--compile", type=int, default=1)
    parser.add_argument("--save", action="store_true", help=f"write {RESULT.name} with date and machine")
    asked = parser.parse_args()
    asked.variant = "full"
    body = {"benchmark": "training_profile", "figures": profiled(asked), "goal": "none: it explains", "met": True}
    if asked.save:
        stored = {"date": date.today().isoformat(), "machine": processor(), **body}
        RESULT.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(body))
    return 0


if __name__ == "__main__":
    sys.exit(main())
