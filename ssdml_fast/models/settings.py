"""The settings of the network; torch is not imported for them."""

from __future__ import annotations

from dataclasses import dataclass

from .._settings import Settings, setting

DIRECTIONS = 256  # of its features, at most, that are kept behind a pretrained backbone
NAMED_WEIGHTS = ("auto", "pretrained", "none")  # what else is given is a file
POOLS = ("mean", "rmac", "max")
NOT_PHOTOGRAPHS = ("paper", "small")  # networks that embed images by themselves, trained from the start
BACKBONES = ("auto", *NOT_PHOTOGRAPHS, "squeezenet", "efficientnet-lite0")
_NUMBER = r"(?:\d+\.?\d*|\.\d+)"


@dataclass(frozen=True)
class NetworkSettings(Settings):
    """Which network embeds the images, and how it begins.

    Examples
    --------
    >>> NetworkSettings(backbone="squeezenet", scales="1, 0.71").factors
    (1.0, 0.71)
    >>> NetworkSettings(backbone="resnet18")
    Traceback (most recent call last):
    ValueError: backbone must be one of auto, paper, small, squeezenet, efficientnet-lite0, or of the form
    torchvision:NAME, timm:NAME or package.module:function, found 'resnet18'
    """

    backbone: str = setting(
        "auto",
        "'auto': by the shape of the images; 'paper': the SSDML paper's network for it; 'small': one for any, trained "
        "from the start; 'squeezenet', 'efficientnet-lite0', torchvision's and timm's: for photographs; or a function "
        "of your own that makes one.",
        pattern="|".join(BACKBONES) + r"|(?:torchvision|timm):[\w./-]+|[^\W\d][\w.]*:[^\W\d][\w.]*",
        form=f"one of {', '.join(BACKBONES)}, or of the form torchvision:NAME, timm:NAME or package.module:function",
    )
    weights: str = setting(
        "auto",
        "FILE (.npz, .pth, .safetensors); 'pretrained': those of ImageNet, never downloaded; 'none': random ones; "
        "'auto': those that an installed package brings, as for efficientnet-lite0.",
        pattern=".+",
        form="'auto', 'pretrained', 'none' or a file",
    )
    freeze: bool = setting(
        False, "Keep the backbone as it is and train what follows it alone, as 'auto' does with photographs."
    )
    image_size: int = setting(0, "Pixels a side that images are brought to; 0: as is usual for the network.")
    pool: str = setting(
        "mean", "What is kept of the last feature maps: their mean, their maximum, or R-MAC.", choices=POOLS
    )
    scales: str = setting(
        "1",
        "Factors of the image's size, with commas; what the backbone says at each is summed.",
        pattern=rf"\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*",
        form="numbers above 0 with commas between them",
    )

    @property
    def factors(self) -> tuple[float, ...]:
        """The scales as numbers."""
        return tuple(float(part) for part in self.scales.split(","))

    def check(self) -> None:
        """Refuse scales that leave nothing, and settings that the backbone would not heed."""
        if not min(self.factors) > 0:
            raise ValueError(f"scales must be numbers above 0 with commas between them, found {self.scales!r}")
        if self.backbone not in NOT_PHOTOGRAPHS:
            return
        for name, only in (
            ("weights", ("auto", "none")),
            ("freeze", (False,)),
            ("pool", ("mean",)),
            ("scales", ("1",)),
        ):
            if getattr(self, name) not in only:
                raise ValueError(
                    f"{name} must be {only[-1]!r} with backbone {self.backbone!r}, which is trained from the start and "
                    f"pools by itself, found {getattr(self, name)!r}"
                )
