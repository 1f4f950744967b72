"""The training log, progress messages and early stopping: a callback of transformers' Trainer."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.errors import StageError
from teacher.inference.llamacpp import Progress


def out_of_patience(history: list[dict[str, Any]], patience: int) -> bool:
    """Whether the held-out loss has not improved for `patience` evaluations.

    Reads the trainer's history, so that a resumed run decides as an uninterrupted one.
    """
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    return bool(losses) and len(losses) - 1 - losses.index(min(losses)) >= patience


def make_log_callback(
    path: Path,
    log: Progress,
    patience: int | None,
    report_step: Callable[[int, int], None] | None = None,
) -> Any:
    """A TrainerCallback that writes each logged step to `path` and reports it with the remaining time.

    report_step: called after each step with its number and the number of all steps.

    It ends the training when the held-out loss has not improved for `patience` evaluations, and raises StageError at a
    loss that is not finite.
    """
    import torch
    from transformers import TrainerCallback

    class LogCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.first_step = time.monotonic(), state.global_step
            # Steps after the checkpoint run again and are logged again, so their old lines are dropped.
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
            rows = [line for line in lines if line.endswith("}")]  # a kill may cut the last line
            kept = [row for row in rows if json.loads(row)["step"] <= state.global_step]
            path.write_text("".join(f"{row}\n" for row in kept), encoding="utf-8")

        def on_epoch_begin(
            self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any
        ) -> None:
            # Otherwise the order comes from torch's global random state, which is lost when a run resumes within an
            # epoch: some examples would be used twice and others never.
            order = torch.Generator().manual_seed(args.seed + int(state.epoch or 0))
            train_dataloader.batch_sampler.sampler.generator = order

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if report_step:
                report_step(state.global_step, state.max_steps)

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if patience and out_of_patience(state.log_history, patience):
                log(
                    f"stopped at step {state.global_step}: no better held-out loss in {patience} evaluations"
                )
                control.should_training_stop = True

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any
        ) -> None:
            if not logs or not {"loss", "eval_loss"} & set(logs):
                return
            if not math.isfinite(logs.get("loss", 0)):
                raise StageError(
                    f"step {state.global_step}: the loss is {logs['loss']}: a lower train.learning_rate may help"
                )
            row = {"step": state.global_step, "epoch": round(state.epoch or 0, 3), **logs}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            done = state.global_step - self.first_step
            if "loss" in logs and done:
                left = (
                    (time.monotonic() - self.started) / done * (state.max_steps - state.global_step)
                )
                log(
                    f"step {state.global_step} of {state.max_steps}, loss {logs['loss']:.3f},"
                    f" {logs['tokens_s']:,.0f} tokens/s, {logs['memory_gib']:.1f} GiB, {left / 60:.0f} min left"
                )
            elif "eval_loss" in logs:
                log(f"held-out loss {logs['eval_loss']:.3f}")

    return LogCallback()
