"""The settings of the methods that come with the package; torch is not imported for them."""

from __future__ import annotations

from dataclasses import dataclass

from .._settings import Settings, setting

MINING = ("class", "neighborhood")
METRIC_UPDATE = ("cayley", "conjugate", "partition", "unconstrained")


@dataclass(frozen=True)
class WarmupSettings(Settings):
    """Settings of :class:`~ssdml_fast.methods.warmup.Warmup`, and of every method that it can precede."""

    warmup: int = setting(
        0, "Mini-batches of labelled examples alone to begin with, before the first graph, by softmax."
    )
    warmup_rate: float = setting(
        1e-3,
        "Step on the network in the warm-up, to which it grows over 50 mini-batches; follows the schedule.",
        within="(0, 1000)",
    )
    mixup: float = setting(
        0.0,
        "Largest share of another image that is blended into each for the softmax, where there is one, labels alike.",
        within="[0, 0.5]",
    )


@dataclass(frozen=True)
class GraphSettings(WarmupSettings):
    """Settings of :class:`~ssdml_fast.methods.graph.GraphMethod`."""

    rounds: int = setting(8, "Passes over the unlabelled examples; 0: the warm-up is all.")
    partition_size: int = setting(
        500, "Unlabelled examples per partition; all labelled ones join each partition.", least=1
    )
    epochs: int = setting(2, "Passes over a partition: its triplets, or its confidently classed examples.", least=1)
    max_epochs: int = setting(0, "Most passes over partitions in all; 0: no limit.")
    neighbors: int = setting(4, "Neighbours of each example in the graph (k).", least=2)
    gamma: float = setting(0.9, "Share of the affinity that propagates at each step of the walk.", within="(0, 1)")


@dataclass(frozen=True)
class SSDMLSettings(GraphSettings):
    """Settings of :class:`~ssdml_fast.methods.ssdml.SSDML`."""

    mining: str = setting(
        "class",
        "'class': triplets drawn by propagated class within mini-batches of confidently classed examples; "
        "'neighborhood': the paper's triplets, from each neighbourhood alone, which can collapse.",
        choices=MINING,
    )
    alpha: float = setting(40.0, "Angle of the loss in degrees.", within="(0, 90)")
    confident: float = setting(
        0.7, "Share of each propagated class, the most confident, to train on in the first partition.", within="(0, 1]"
    )
    confident_last: float = setting(0.95, "The same in the last partition; the share changes evenly.", within="(0, 1]")
    triplets_per_example: int = setting(10, "Triplets drawn per example of a mini-batch, with mining 'class'.", least=1)
    hard_negatives: int = setting(
        10, "Draw each negative among this many that are nearest to its anchor; 0: among all of the mini-batch."
    )
    metric_update: str = setting(
        "cayley",
        "What moves L: 'cayley' steps; 'conjugate': ten iterations of Riemannian conjugate gradients per mini-batch, "
        "as the paper says; 'partition': the same before each pass, on all its triplets, with mining 'neighborhood'; "
        "'unconstrained': gradient steps that do not keep L orthogonal.",
        choices=METRIC_UPDATE,
    )
    softmax_weight: float = setting(
        0.0,
        "Of the warm-up's softmax beside each mini-batch of triplets, on as many labelled examples.",
        within="[0, 1000)",
    )

    def check(self) -> None:
        """Refuse a solution of L on all triplets of a pass where they are not known before it."""
        if self.metric_update == "partition" and self.mining != "neighborhood":
            raise ValueError(
                f"metric_update must be other than 'partition' with mining {self.mining!r}, whose triplets are drawn "
                "per mini-batch"
            )
