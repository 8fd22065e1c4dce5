"""The training loop: one for every task, from a laptop to many processes, resumable at any moment."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

import alphabar
from alphabar import engine
from alphabar.data import Loader, open_dataset
from alphabar.errors import AlphabarError
from alphabar.io import atomic_file, read_json, write_json, writing
from alphabar.nn import build
from alphabar.rng import derive_seed
from alphabar.train.checkpoint import (
    Learner,
    Progress,
    discard_unfinished,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from alphabar.train.config import Recipe, TrainConfig
from alphabar.train.ema import Ema
from alphabar.train.tasks import Loss, make_task

ADVERSARY_BETAS = (0.5, 0.9)
"""AdamW's, of an adversary: it chases a moving target, so its averages are short, as in latent diffusion."""


class RunStoppedError(Exception):
    """Ctrl-C or a kill: the run was saved and can be resumed."""


def train(recipe: Recipe, out: Path, *, resume: bool = False, quiet: bool = False) -> Path:
    """Run a recipe to its end; returns the model folder.

    Args:
        recipe: what to do.
        out: the run folder; it must not hold a run unless `resume`.
        resume: continue the run in `out` from its newest checkpoint, or start it where there is none.
        quiet: no progress bar.

    Raises:
        AlphabarError: anything the user can mend.
        RunStoppedError: on Ctrl-C or SIGTERM, after a checkpoint.
    """
    if (out / "recipe.json").exists() and not resume:
        raise AlphabarError(f"{out} already holds a run; add --resume to continue it, or choose another --out")
    return Trainer(recipe, out, resume=resume, quiet=quiet).run()


def learning_rate(settings: TrainConfig, step: int, done: float) -> float:
    """The rate of step number `step` (from 0) when the share `done` (0..1) of the run is over."""
    rate = settings.lr * min(1.0, (step + 1) / (settings.warmup_steps + 1))
    return rate * (1 + math.cos(math.pi * min(done, 1.0))) / 2 if settings.lr_schedule == "cosine" else rate


class Trainer:
    """One run. See `train`."""

    def __init__(self, recipe: Recipe, out: Path, *, resume: bool, quiet: bool) -> None:
        from accelerate import Accelerator

        self.recipe, self.out, self.settings = recipe, out, recipe.train
        self.cache = out.parent / "cache"  # cached moments are shared by the runs beside this one
        # Without cpu=True, Accelerate does not see that torchrun started several processes where there is no GPU.
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
        self.device = self.accelerator.device
        self.main = self.accelerator.is_main_process
        self.quiet = quiet or not self.main
        engine.tune_allocator()
        self.precision = engine.choose_precision(self.settings.precision, self.device)

        data = recipe.data
        with self._main_first():
            root = Path(data.root) if data.root else None
            dataset = open_dataset(data.name, size=data.size, channels=data.channels, root=root)
        torch.manual_seed(derive_seed(self.settings.seed, 0, "weights"))
        self.network = build(recipe.network).to(self.device)
        with self._main_first():
            self.task = make_task(recipe, dataset, self.network, self.cache, self.device)
        self.ema = Ema(self.network, self.settings.ema_decay)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=self.settings.lr,
            betas=(self.settings.betas[0], self.settings.betas[1]),
            weight_decay=self.settings.weight_decay,
            fused=True,
        )
        self.learner = Learner(self.network, self.optimizer)
        self.adversary = self._adversary()
        self.progress = self._restore() if resume else Progress()
        self.ready = self.accelerator.prepare(self._compiled(self.network) if self.settings.compile else self.network)
        self.ready_adversary = None if self.adversary is None else self.accelerator.prepare(self.adversary.network)
        self.loader = Loader(
            self.task.source,
            self.settings.batch_size,
            self.settings.seed,
            position=self.progress.position,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            workers=data.workers,
        )
        self.stopping = False
        self.previewed = int(self._done() * self.settings.previews)
        self.sums: dict[str, Tensor] = {}
        self.since = self.progress
        self.saved_at = time.monotonic()

    def _adversary(self) -> Learner | None:
        """The task's adversary with an optimizer of its own."""
        network, rate = self.task.adversary, self.recipe.loss.adversarial_lr
        if network is None:
            return None
        parameters = network.parameters()
        return Learner(network, torch.optim.AdamW(parameters, rate, ADVERSARY_BETAS, weight_decay=0.0, fused=True))

    @contextmanager
    def _main_first(self) -> Iterator[None]:
        """What writes files, such as a download or a cache, is done by the first process while the others wait."""
        if not self.main:
            try:
                self.accelerator.wait_for_everyone()
            except RuntimeError as error:  # its connection closed
                raise AlphabarError("the first process ended; its message says why") from error
        yield
        if self.main:
            self.accelerator.wait_for_everyone()

    def _identity(self) -> dict[str, Any]:
        return {**self.task.identity(), "processes": self.accelerator.num_processes}

    def _restore(self) -> Progress:
        folder = latest_checkpoint(self.out)
        if folder is None:
            return Progress()
        return load_checkpoint(folder, self.learner, self.ema.network, self._identity(), self.adversary)

    def _compiled(self, network: nn.Module) -> nn.Module:
        """torch.compile, tried on one batch; where it fails, one line of warning and eager."""
        try:
            compiled: nn.Module = torch.compile(network)  # type: ignore[assignment]
            batch = next(Loader(self.task.source, self.settings.batch_size, self.settings.seed))
            with engine.autocast(self.device, self.precision):
                rows = batch.rows.to(self.device)
                self.task.loss(compiled, batch._replace(rows=rows)).per_sample.mean().backward()
        except Exception as error:  # the compiler's failures have no common type
            print(f"alphabar: torch.compile failed ({_first_line(error)}); training in eager mode", file=sys.stderr)
            compiled = network
        network.zero_grad(set_to_none=True)
        return compiled

    def run(self) -> Path:
        """Train to the end, or until stopped."""
        self._begin()
        with self._signals(), self._bar() as bar:
            while not self._finished():
                started = time.perf_counter()
                self._step()
                step, position = self.progress.step + 1, self.loader.position
                self.progress = Progress(step, position, self.progress.seconds + time.perf_counter() - started)
                self._agree()
                self._after_step(bar)
                if self.stopping:
                    self._save(final=False)
                    raise RunStoppedError(f"stopped at step {step}; continue with --resume")
            self._log(bar)
            self._save(final=True)
        self.accelerator.wait_for_everyone()  # none leaves while the first still writes
        self.accelerator.end_training()
        return self.out / "model"

    def _begin(self) -> None:
        self.network.train()
        if not self.main:
            return
        discard_unfinished(self.out)
        write_json(self.out / "recipe.json", self.recipe.to_dict())
        self._forget_after(self.progress.step)
        if not self.quiet:
            parameters = sum(p.numel() for p in self.network.parameters())
            print(
                f"{self.recipe.name}: {self.recipe.task}, {parameters:,} parameters, "
                f"{len(self.task.dataset):,} images of {self.task.dataset.name}, {self.device.type} {self.precision}, "
                f"{self.accelerator.num_processes} process(es) -> {self.out}",
                file=sys.stderr,
            )

    def _finished(self) -> bool:
        return self._done() >= 1

    def _done(self) -> float:
        """The share of the run that is over, by steps or by time, whichever is further."""
        shares = [0.0]
        if self.settings.steps is not None:
            shares.append(self.progress.step / self.settings.steps)
        if self.settings.minutes is not None:
            shares.append(self.progress.seconds / (60 * self.settings.minutes))
        return max(shares)

    def _step(self) -> None:
        """One optimizer step over `accumulate` batches."""
        rate = learning_rate(self.settings, self.progress.step, self._done())
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Dropout, the only thing that draws from torch's own generator, is keyed like everything else.
        rank = self.accelerator.process_index
        torch.manual_seed(derive_seed(self.settings.seed, self.progress.step, f"dropout {rank}"))
        self.task.step = self.progress.step
        for k in range(self.settings.accumulate):
            batch = next(self.loader)
            batch = batch._replace(
                rows=batch.rows.to(self.device, non_blocking=True),
                labels=None if batch.labels is None else batch.labels.to(self.device),
            )
            last = k + 1 == self.settings.accumulate
            with self.accelerator.no_sync(self.ready) if not last else nullcontext():
                with engine.autocast(self.device, self.precision):
                    loss = self.task.loss(self.ready, batch)
                (loss.per_sample.mean() / self.settings.accumulate).backward()
            self._count(loss)
            self._backward_adversary(last)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_norm, foreach=True)
        self._add("grad_norm", norm, torch.ones_like(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.network, self.progress.step + 1)
        if self.adversary is not None:
            self.adversary.optimizer.step()  # without gradients, before it takes part, this does nothing
            self.adversary.optimizer.zero_grad(set_to_none=True)

    def _backward_adversary(self, last: bool) -> None:
        """The adversary's gradients on the batch that the network just had."""
        if self.ready_adversary is None:
            return
        with self.accelerator.no_sync(self.ready_adversary) if not last else nullcontext():
            with engine.autocast(self.device, self.precision):
                loss = self.task.adversary_loss(self.ready_adversary)
            if loss is not None:
                (loss / self.settings.accumulate).backward()
                self._add("adversary", loss.detach(), torch.ones_like(loss))

    def _count(self, loss: Loss) -> None:
        per_sample = loss.per_sample.detach()
        self._add("loss", per_sample.sum(), torch.tensor(len(per_sample), device=self.device))
        for name, (total, count) in loss.parts.items():
            self._add(name, total, count)

    def _add(self, name: str, total: Tensor, count: Tensor) -> None:
        pair = torch.stack([total.double(), count.double()])
        self.sums[name] = self.sums[name] + pair if name in self.sums else pair

    def _agree(self) -> None:
        """Processes stop together and see the same clock, so that the rate of a timed run is one number."""
        if self.accelerator.num_processes == 1:
            return
        mine = torch.tensor([float(self.stopping), self.progress.seconds], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(mine, op=torch.distributed.ReduceOp.MAX)
        self.stopping = bool(mine[0])
        self.progress = self.progress._replace(seconds=float(mine[1]))

    def _after_step(self, bar: tqdm[Any]) -> None:
        self._advance(bar)
        if self.progress.step % self.settings.log_every == 0:
            self._log(bar)
        self._preview()
        if self.main and time.monotonic() - self.saved_at > self.settings.checkpoint_seconds and not self._finished():
            self._save(final=False)

    def _log(self, bar: tqdm[Any]) -> None:
        """Means since the last line, over all processes, to metrics.jsonl, TensorBoard and the bar."""
        if not self.sums:
            return
        means: dict[str, float] = {}
        for name, pair in self.sums.items():
            total, count = self.accelerator.reduce(pair, reduction="sum").tolist()
            if count:
                means[name] = total / count
        self.sums = {}
        if not math.isfinite(means["loss"]):
            good = f"; the last checkpoint in {self.out} is still good" if latest_checkpoint(self.out) else ""
            raise AlphabarError(
                f"the loss is {means['loss']} near step {self.progress.step}: lower train.lr or use "
                f"train.precision=float32{good}"
            )
        seconds = self.progress.seconds - self.since.seconds
        rate = (self.progress.position - self.since.position) / max(seconds, 1e-9)
        self.since = self.progress
        line = {
            "step": self.progress.step,
            "images": self.progress.position,
            "seconds": round(self.progress.seconds, 3),
            **means,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round(rate, 1),
        }
        if self.main:
            with writing(path := self.out / "metrics.jsonl"), path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            for name in line.keys() - {"step", "images", "seconds"}:
                self._tensorboard.add_scalar(name, line[name], self.progress.step)
        bar.set_postfix_str(f"loss {means['loss']:.4f}, {rate:,.0f} images/s")

    @cached_property
    def _tensorboard(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.out / "tensorboard"), purge_step=self.progress.step)

    def _forget_after(self, step: int) -> None:
        """A resumed run writes the lines after its checkpoint again."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        with atomic_file(path) as temporary:
            temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    @torch.no_grad()
    def _preview(self) -> None:
        """A picture, at evenly spread moments of the run."""
        from alphabar.report.grid import save_png

        due = int(self._done() * self.settings.previews)
        if not self.main or due == self.previewed:
            return
        self.previewed = due
        with engine.autocast(self.device, self.precision):
            image = self.task.preview(self.ema.network, self.device)
        save_png(image, self.out / "samples" / f"step-{self.progress.step:08d}.png")

    def _save(self, *, final: bool) -> None:
        """A checkpoint and, from its averaged weights, the model folder."""
        self.saved_at = time.monotonic()
        if not self.main:
            return
        adversary = () if self.adversary is None else self.adversary.network.parameters()
        if not all(torch.isfinite(p).all() for p in (*self.network.parameters(), *adversary)):
            raise AlphabarError(
                f"weights are not finite at step {self.progress.step}; nothing was saved, lower train.lr"
            )
        save_checkpoint(self.out, self.progress, self.learner, self.ema.network, self._identity(), self.adversary)
        card = self._card()
        self.task.export(self.ema.network, self.out / "model", card, final=final, cache=self.cache)

    def _card(self) -> dict[str, Any]:
        """How the weights came about."""
        return {
            "recipe": self.recipe.to_dict(),
            "seed": self.settings.seed,
            "data_sha256": self.task.dataset.fingerprint,
            "commit": _commit(),
            "steps": self.progress.step,
            "images_seen": self.progress.position,
            "train_seconds": round(self.progress.seconds, 1),
            "precision": self.precision,
            "device": self.device.type,
            "versions": {"alphabar": alphabar.__version__, "torch": torch.__version__},
        }

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM ends the run after this step, with a checkpoint; the second one at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _bar(self) -> Iterator[tqdm[Any]]:
        by_steps = self.settings.steps is not None
        total = self.settings.steps if by_steps else round(60 * (self.settings.minutes or 0))
        start = self.progress.step if by_steps else int(self.progress.seconds)
        unit = "step" if by_steps else "s"
        # No bar where nobody watches: disable=None looks for a terminal.
        disable = True if self.quiet else None
        with tqdm(
            total=total, initial=start, unit=unit, desc=self.recipe.name, disable=disable, mininterval=0.5
        ) as bar:
            yield bar

    def _advance(self, bar: tqdm[Any]) -> None:
        now = self.progress.step if self.settings.steps is not None else int(self.progress.seconds)
        bar.update(now - bar.n)


def _step_of(line: str) -> int:
    """The step of a metrics line; a line cut short by a kill counts as past every step."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return sys.maxsize


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _commit() -> str | None:
    """The commit of the checkout that the library runs from, if it is one."""
    here = Path(__file__).parent
    result = subprocess.run(["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return result.stdout.strip() or None


def read_metrics(run: Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise AlphabarError(f"{run} is not a run folder: it has no metrics.jsonl")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_recipe(run: Path) -> dict[str, Any]:
    """The recipe that a run was made with, as plain values."""
    return read_json(run / "recipe.json")
