"""From a checkpoint, whatever wrote it, to a Backbone."""
