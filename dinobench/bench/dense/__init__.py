"""How this machine does against the limits of the protocols on patches, maps and videos."""
