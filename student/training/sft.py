"""Supervised fine-tuning of a student with TRL and PEFT, on the token ids and labels of student/rendering/examples.py.

A run resumes from its last checkpoint. Its log has one JSON line per logged step.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.files import read_json
from schemas.recipe import Train
from student.models.base import has_vision
from student.training import vision
from student.training.example_file import ExampleFile
from student.training.log_callback import make_log_callback, out_of_patience
from teacher.inference.llamacpp import Progress
from teacher.planning import hardware
from teacher.scenes.images import ImageStore

# Bytes of a GPU for the logits of a few rows, workspaces and fragmentation in the allocator.
_MARGIN = 2 * hardware.GIB


def train(
    directory: Path,
    student: dict[str, Any],
    settings: Train,
    *,
    examples: Sequence[ExampleFile],
    held_out: ExampleFile,
    work: Path,
    log: Progress = print,
    image_store: ImageStore | None = None,
    report_step: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Trains a student and writes the adapter (or, with method full, the weights) to `work`/adapter.

    Args:
        directory: the untrained student (student/models/base.py).
        student: its description.
        settings: the recipe's `train` section.
        examples: the files of the training examples.
        held_out: examples on which only the loss is measured.
        work: the directory for checkpoints/, log.jsonl and adapter/.
        image_store: the images of a vision-language student's examples.
        report_step: called after each optimiser step with its number and the number of all steps.

    Returns:
        {"steps", "kept_step", "tokens", "seconds", "loss", "eval_loss"}: optimiser steps; the step whose weights are
        kept (the last, or with patience that of the lowest held-out loss); tokens of all epochs; loss of the last
        logged step; held-out loss at the kept step.

    Raises:
        StageError: the loss is not a finite number, or 4 bits without bitsandbytes.
    """
    import torch
    from datasets import concatenate_datasets
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, PrinterCallback, TrainerState, set_seed
    from trl import SFTConfig

    from student.training import memory, quantized_base
    from student.training.micro_batches import MicroBatchTrainer, pad_right

    set_seed(settings.seed)
    gpu = torch.cuda.is_available()
    settings = memory.resolve_dtype(settings, gpu)
    if not gpu:
        _keep_freed_memory()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    vision_language = has_vision(student)
    model = quantized_base.load(directory, settings, vision_language, log)
    if settings.method != "full":
        lora = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=student["lora_targets"],
            exclude_modules=vision.TOWER if vision_language else None,
            task_type="CAUSAL_LM",
        )
        model = get_peft_model(model, lora)
    fused = _install_fused_layers(model, settings, log)
    packed = fused is not None and not any(file.image_count for file in (*examples, held_out))
    longest = max(max(file.lengths) for file in examples if file)
    tokens, before = _plan_micro_batches(model, fused, settings, longest, log)
    config = SFTConfig(
        output_dir=str(work / "checkpoints"),
        use_cpu=not gpu,
        bf16=gpu and settings.dtype == "bfloat16",
        num_train_epochs=settings.epochs,
        # All examples of a step; student/training/micro_batches.py divides them by what memory holds.
        per_device_train_batch_size=settings.batch_size * settings.accumulation,
        gradient_checkpointing=gpu and fused is None,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup_ratio,
        max_grad_norm=1.0,
        # Padded rows of a step should have similar lengths.
        train_sampling_strategy="random" if packed else "group_by_length",
        max_length=None,  # no example is cut; mixture.py left out turns that are too long
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=not vision_language,  # the collator reads image_names
        eval_strategy=("steps" if settings.patience else "epoch") if held_out else "no",
        eval_steps=settings.save_steps if settings.patience else None,
        load_best_model_at_end=bool(settings.patience),
        metric_for_best_model="eval_loss" if settings.patience else None,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        logging_steps=settings.log_steps,
        logging_nan_inf_filter=False,  # the filter syncs with the GPU at each step and hides a NaN
        report_to="none",
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=gpu,
    )
    trainer = MicroBatchTrainer(
        model=model,
        args=config,
        train_dataset=concatenate_datasets([file.dataset for file in examples if file]),
        eval_dataset=held_out.dataset if held_out else None,
        processing_class=tokenizer,
        callbacks=[make_log_callback(work / "log.jsonl", log, settings.patience, report_step)],
        limit=tokens,
        fused=fused is not None,
        packed=packed,
        pad=vision.Collator(directory, image_store) if vision_language else pad_right,
        before=before,
    )
    trainer.remove_callback(
        PrinterCallback
    )  # it writes to standard output, which belongs to the command
    checkpoint = _last_checkpoint(work / "checkpoints")
    if checkpoint:
        log(f"continuing from {checkpoint.name}")
        trainer.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    started = time.monotonic()
    if settings.patience and out_of_patience(trainer.state.log_history, settings.patience):
        # The run was killed after it had stopped early; trainer.train would take another step.
        best = work / "checkpoints" / f"checkpoint-{trainer.state.best_global_step}"
        trainer._load_from_checkpoint(str(best))
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model(str(work / "adapter"))
    state = trainer.state
    evaluations = [row for row in state.log_history if "eval_loss" in row]
    kept = (state.best_global_step if settings.patience else None) or state.global_step
    if kept != state.global_step:
        log(f"kept the weights of step {kept}, whose held-out loss is the lowest")
    return {
        "steps": state.global_step,
        "kept_step": kept,
        "tokens": int(sum(file.tokens for file in examples) * (state.epoch or 0)),
        "seconds": round(time.monotonic() - started, 1),
        "loss": next((row["loss"] for row in reversed(state.log_history) if "loss" in row), None),
        "eval_loss": next(
            (row["eval_loss"] for row in reversed(evaluations) if row["step"] <= kept), None
        ),
    }


def _last_checkpoint(directory: Path) -> Path | None:
    """The newest complete checkpoint. Its state is written last, so an incomplete one has none or a part of it."""
    states = directory.glob("checkpoint-*/trainer_state.json")
    complete = [state.parent for state in states if _is_json(state)]
    return max(complete, key=lambda path: int(path.name.split("-")[1]), default=None)


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except InputError:
        return False
    return True


def _install_fused_layers(model: Any, settings: Train, log: Progress) -> Any:
    """Installs the fused layers (student/kernels/fused_layers.py); logs why and returns None if it cannot."""
    from student.kernels import fused_layers

    if settings.method == "full":
        return None
    try:
        fused = fused_layers.install(model)
    except ValueError as error:
        log(f"training without fused layers: {error}")
        return None
    if settings.method == "qlora" and settings.bits == 8 and not fused.multiplies_fp8:
        log(
            "the FP8 weights are dequantised before each product: products in FP8 need an NVIDIA GPU of compute"
            " capability 8.9 or higher, and layers whose sizes are multiples of 16"
        )
    return fused


def _plan_micro_batches(
    model: Any, fused: Any, settings: Train, longest: int, log: Progress
) -> tuple[int, Callable[[int], None]]:
    """The number of tokens that are computed at once, and a function to call before each micro-batch.

    The function sets how many fused layers keep their activations, by the free memory (student/training/memory.py).

    Args:
        fused: the fused layers, or None.
        longest: tokens of the longest example.
    """
    import torch

    from student.models.introspect import shape_of
    from student.training import memory

    if fused is None:
        return settings.micro_batch or settings.batch_size * longest, lambda tokens: None
    shape, element = shape_of(model.config.get_text_config()), model.dtype.itemsize
    free = _free_memory(model)
    gpu = hardware.find().gpu if torch.cuda.is_available() else None
    tokens = settings.micro_batch
    if tokens is None:
        weight_bytes = memory.stored_weight_bytes(settings)
        tokens = memory.choose_batch(shape, settings.rank, free, gpu, weight_bytes, element)

    def before(tokens: int) -> None:
        fused.keep_layers(memory.layers_to_keep(shape, tokens, free, settings.rank, element))

    batch = memory.batch_of(shape, settings.rank, free, tokens, longest, element)
    description = memory.describe_batch(batch, shape["layers"])
    log(f"fused layers: {description} ({free / hardware.GIB:.1f} GiB free for activations)")
    return tokens, before


def _free_memory(model: Any) -> int:
    """Bytes of the GPU, or of the host without one, for activations beside gradients and optimiser state."""
    import psutil
    import torch

    states = 3 * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    if not torch.cuda.is_available():
        return int(0.8 * psutil.virtual_memory().available) - states
    free, _ = torch.cuda.mem_get_info()
    unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return free + unused - states - _MARGIN


def _keep_freed_memory() -> None:
    """Makes glibc keep large freed blocks instead of returning them to the kernel.

    Each step frees and allocates the same large tensors; without this a quarter of the time goes into page faults
    (145 against 188 tokens/s on two cores, benchmarks/README.md). It has no effect with another C library.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD of malloc.h: smaller blocks come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: do not shrink the heap
