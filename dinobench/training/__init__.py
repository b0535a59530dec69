"""What linear probes, fine-tuning and pretraining share, and the trainers of the first two."""
