"""Pretraining: one loop, one file a method. Installed as `dinobench.pretrain`, for the reason protocols/ gives."""

if __name__ != "dinobench.pretrain":
    raise ImportError(f"import this package as 'dinobench.pretrain', not as {__name__!r}")
