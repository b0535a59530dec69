"""The protocols, one file each. Installed as `dinobench.protocols`: a bare `protocols` would collide with others'."""

if __name__ != "dinobench.protocols":
    raise ImportError(f"import this package as 'dinobench.protocols', not as {__name__!r}")
