"""TALL-masks: which entries of a merged task vector belong to each task, in one bit an entry."""
