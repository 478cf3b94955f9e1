"""Arrays of libraries that are not known, which speak one protocol each."""


class Foreign:
    """Speaks DLPack."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **options):
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class OnDevice:
    """Speaks __cuda_array_interface__; `more` replaces entries of that of `x`, which may be None."""

    def __init__(self, x, **more):
        self.x, self.more = x, more

    @property
    def __cuda_array_interface__(self):
        return {**(self.x.__cuda_array_interface__ if self.x is not None else {}), "version": 3, **self.more}
