"""The settings of a training that are the same for every method."""

from __future__ import annotations

from dataclasses import dataclass

from .._settings import Settings, setting
from ..data.dataset import CACHE_GB

AUGMENT = ("none", "affine", "strong")
OPTIMIZER = ("adam", "sgd")
SCHEDULE = ("constant", "cosine")
PRECISION = ("float32", "bfloat16", "float16")
SELECT = ("validation", "last")
ELSEWHERE = ("device", "workers", "cache_gb")
"""Settings that a training which is resumed may be given anew: they say where it runs, not what it reaches."""


@dataclass(frozen=True)
class Config(Settings):
    """Settings of :func:`ssdml_fast.train.fit` beside those of its method; a field's meaning is its
    ``metadata["help"]``.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another type or outside its limits; the message names it.

    Examples
    --------
    >>> Config(batch_size=50).batch_size
    50
    """

    seed: int = setting(0, "Decides every random choice.")
    device: str = setting(
        "auto",
        "Where the network learns: 'cpu', 'cuda', 'cuda:1' and so on, 'mps'; 'auto': an accelerator where there is "
        "one.",
        pattern=r"auto|cpu|mps|cuda(:\d+)?",
        form="'auto', 'cpu', 'cuda', 'cuda:N' or 'mps'",
    )
    precision: str = setting(
        "float32",
        "Of the network's layers as it learns: 'float32', or 'bfloat16' (autocast) for processors with such products, "
        "as AVX-512 BF16, AMX and GPUs; 'float16', on CUDA, with losses scaled. Losses and the embeddings that are "
        "compared stay float32.",
        choices=PRECISION,
    )
    tf32: bool = setting(False, "On CUDA, round the factors of float32 products to 10 bits (TensorFloat-32).")
    compile: bool = setting(False, "Learn through torch.compile, for networks that it makes faster.")
    batch_size: int = setting(100, "Per mini-batch: examples, or with mining 'neighborhood' triplets.", least=1)
    augment: str = setting(
        "none",
        "Random changes to each image of a mini-batch; 'affine': small rotations, scalings and shifts; 'strong': "
        "larger ones, mirroring, channels mixed a little and a square cut out.",
        choices=AUGMENT,
    )
    optimizer: str = setting("adam", "What moves the network: 'adam', or 'sgd' with momentum 0.9.", choices=OPTIMIZER)
    learning_rate: float = setting(1e-3, "Its step, for the mean loss of a mini-batch.", within="(0, 1000)")
    weight_decay: float = setting(
        0.0, "Share of the weights, times the step, that each step takes off.", within="[0, 1000)"
    )
    schedule: str = setting(
        "cosine", "Of the steps on the network: 'constant', or 'cosine' down to none at the end.", choices=SCHEDULE
    )
    average: float = setting(
        0.99,
        "Decay of the running mean of the weights that embeds for graphs and is kept; 0: no mean.",
        within="[0, 1)",
    )
    metric_dim: int = setting(64, "Columns of L: the dimension of the embedding.", least=1)
    metric_step: float = setting(0.1, "Step on L.", within="(0, 1000)")
    validations: int = setting(
        1, "Validations per pass over a partition, evenly spaced; at most one per mini-batch.", least=1
    )
    patience: int = setting(
        8, "Stop after this many validations without a better score; the warm-up's do not count.", least=1
    )
    select: str = setting(
        "validation",
        "Which model is kept: that of the best score on validation examples, or the 'last', for which there need be "
        "none.",
        choices=SELECT,
    )
    workers: int = setting(
        0, "Processes that decode examples which do not lie in memory, for each that trains; 0: that one alone."
    )
    cache_gb: float = setting(CACHE_GB, "Memory for such examples once decoded, in 10^9 bytes.", within="[0, inf)")

    def check(self) -> None:
        """Refuse a seed that torch's generators do not take."""
        if self.seed >= 2**64:
            raise ValueError(f"seed must be less than 2^64, found {self.seed}")
