"""Judges the tensors of a checkpoint, which may come from elsewhere."""

from __future__ import annotations

from typing import Any

import torch


def wrong_tensors(checkpoint: dict[str, Any]) -> str | None:
    """Describe what is wrong with the tensors of a checkpoint; None: nothing.

    A view may claim any number of elements of a small file, and be copied to as many.
    """
    model, propagated = checkpoint.get("best_model"), checkpoint.get("propagated")
    if not isinstance(model, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in model.values()):
        return "its best_model is no table of tensors"
    if not isinstance(propagated, list) or not all(_is_labels(tensor, propagated[0]) for tensor in propagated):
        return "its propagated labels are no list of rounds"
    todo: list[Any] = [checkpoint]
    seen = set()
    while todo:
        content = todo.pop()
        if id(content) in seen:
            continue
        seen.add(id(content))
        if isinstance(content, torch.Tensor):
            if not _is_whole(content):
                return f"a tensor of shape {tuple(content.shape)} does not lie in it whole"
        elif isinstance(content, dict):
            todo += content.values()
        elif isinstance(content, list | tuple):
            todo += content
    return None


def _is_labels(tensor: Any, first: Any) -> bool:
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.dim() == 1
        and tensor.shape == first.shape
        and tensor.dtype in (torch.int32, torch.int64)
    )


def _is_whole(tensor: torch.Tensor) -> bool:
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and tensor.nbytes <= tensor.untyped_storage().nbytes()
    )
