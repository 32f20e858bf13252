"""`./do bench`: how fast the disks are, beside the best that others offer for the same job."""
