"""Linear heads on the patch features of a frozen backbone: how they are trained, and how images are seen by them."""
