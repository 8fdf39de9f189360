r"""The C++ compiler that graphs on the CPU are built with."""


def require_compiler():
    pass
