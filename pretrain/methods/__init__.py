"""One file a method; `dinobench.pretrain.method` is their contract."""
