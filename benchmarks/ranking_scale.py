"""Memory of a large catalogue: `python benchmarks/ranking_scale.py`.

A generated log of 100,000 items, sampled softmax: texts, training, validation, the two matrices of the blend and a full ranking
of the whole catalogue for every test case, in one process. Prints the process's memory along the run (it has to stay flat) and its
peak.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import tempfile

import psutil
from training_speed import make_log
from transformers import HfArgumentParser, TrainerCallback

from interest_lm.data.log import InterestLog
from interest_lm.evaluation.cases import ranking_cases
from interest_lm.evaluation.folds import fold
from interest_lm.evaluation.predict import ModelPredictor
from interest_lm.evaluation.ranking import mean_ndcg
from interest_lm.training.arguments import InterestTrainingArguments
from interest_lm.training.run import train
from interest_lm.training.trainer import ReturnMemory


GIB = 2**30


class HeapFacts(ctypes.Structure):
    """`struct mallinfo2` of the GNU C library, 2.33 or newer."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


class Memory(TrainerCallback):
    """Resident memory every so many steps, once what steps have freed is given back to the system, as the trainer does every twenty
    steps (`ReturnMemory`); before that; and what of the heap is in use between two steps."""

    def __init__(self, every: int):
        self.every, self.process, self.memory = every, psutil.Process(), ReturnMemory(every)
        self.facts = getattr(ctypes.CDLL(None), "mallinfo2", None)
        if self.facts is not None:
            self.facts.restype = HeapFacts

    def resident(self) -> float:
        return self.process.memory_info().rss / GIB

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step % self.every == 0:
            before = self.resident()
            self.memory.on_step_end(args, state, control)
            said = (
                f"step {state.global_step}: {self.resident():.2f} GiB, {before:.2f} before freed memory was given back"
            )
            if self.facts is not None:
                found = self.facts()
                said += f"; {(found.uordblks + found.hblkhd) / GIB:.2f} GiB in use"
            print(said, flush=True)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=5_000)
    parser.add_argument("--events", type=int, default=100, help="per user")
    parser.add_argument("--steps", type=int, default=400)
    arguments, extra = parser.parse_known_args()
    log: InterestLog = make_log(arguments.users, arguments.events, arguments.items)
    with tempfile.TemporaryDirectory() as folder:
        flags = {
            "output_dir": f"{folder}/model",
            "tuning": "frozen",
            "max_steps": arguments.steps,
            "max_text_tokens": 12,
        }
        flags |= {"baselines": "none", "evaluations": 2, "disable_tqdm": True}
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        (args,) = HfArgumentParser(InterestTrainingArguments).parse_args_into_dataclasses([*words, *extra])
        out = train(args, log, callbacks=[Memory(max(arguments.steps // 8, 1))])
    print(f"trained: {out['training']['steps']} steps, {out['training']['minutes']} minutes, peak {peak():.2f} GiB")
    predictor = ModelPredictor(out["model"], out["processor"], log, tensors=out["tensors"])
    cases = ranking_cases(log, fold(log, "test"))
    figure = mean_ndcg(log, cases, predictor, filtered=False)
    print(
        f"{len(cases.user):,} cases ranked over {log.num_items:,} items (NDCG@10 {figure:.4f}), peak {peak():.2f} GiB"
    )


if __name__ == "__main__":
    main()
