"""Map-style Datasets for tests, where processes that read them can import them."""

import os

import numpy as np
from torch.utils.data import Dataset


class Items(Dataset):
    """What is in a list; what is raised, if it is an exception; or what it returns, if it can be called."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        item = self.items[i]
        if isinstance(item, Exception):
            raise item
        return item() if callable(item) else item


class Labelled(Items):
    """A map-style Dataset with its labels."""

    def __init__(self, items, labels):
        super().__init__(items)
        self.targets = labels.tolist()


class Counted(Items):
    """Appends a byte to a file for every example that is read, in whatever process."""

    def __init__(self, items, path):
        super().__init__(items)
        self.path = path

    def __getitem__(self, i):
        with open(self.path, "ab") as file:
            file.write(b"1")
        return super().__getitem__(i)


class Held(Items):
    """Holds a pipe open in every process that has read from it."""

    def __init__(self, items, path):
        super().__init__(items)
        self.path, self.pipe = path, None

    def __getitem__(self, i):
        if self.pipe is None:
            self.pipe = os.open(self.path, os.O_WRONLY)
        return super().__getitem__(i)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.pipe)

    def __getstate__(self):
        return vars(self) | {"pipe": None}


class Dying:
    """Ends the process that calls it."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        if self.number == 0:
            os._exit(3)
        os.kill(os.getpid(), self.number)


class Broken:
    """Can be pickled but not brought back."""

    def __reduce__(self):
        return int, ("no number",)


def floats(n=23, shape=(2, 3)):
    return np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32)


def octets(n=23, shape=(1, 4, 5)):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)
