"""How linear depth heads are trained on a frozen backbone."""
