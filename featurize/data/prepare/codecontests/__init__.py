"""Makes samples from the published files of CodeContests."""
