"""How this machine does against its limits: ratios measured in one run."""
