"""What the trainer, the estimators, the command line and readers need beyond the kernels' own dependencies."""

from __future__ import annotations

import importlib.util

_DISTRIBUTIONS = {"PIL": "Pillow", "sklearn": "scikit-learn"}  # where the name differs from the module's


def require(what: str, *modules: str, extra: str = "train") -> None:
    """Refuse to go on where a module of an extra is not installed; none is imported for that.

    Parameters
    ----------
    what : str
        What needs them, to begin the message with.
    *modules : str
        Their names, without dots.
    extra : str
        The extra that brings them.

    Raises
    ------
    ImportError
        If one is missing; the message names all that are, and the extra that brings them.

    Examples
    --------
    >>> require("this example", "numpy")
    >>> require("this example", "numpy", "no_such_module")
    Traceback (most recent call last):
    ImportError: this example needs no_such_module: pip install 'ssdml-fast[train]'
    """
    missing = [_DISTRIBUTIONS.get(module, module) for module in modules if not _is_installed(module)]
    if missing:
        raise ImportError(f"{what} needs {', '.join(missing)}: pip install 'ssdml-fast[{extra}]'")


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an import hook that refuses it; an entry of sys.modules without a spec
        return False
