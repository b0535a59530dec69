"""Images through a backbone, for every protocol: one loop, one service, one cache."""
