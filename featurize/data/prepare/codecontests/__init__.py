"""From CodeContests, as it is published, to samples."""
