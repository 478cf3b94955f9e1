"""Checks the arguments of an operation, allocates its results and calls the kernel; one file per operation."""
