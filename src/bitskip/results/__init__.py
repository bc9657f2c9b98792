"""What commands write and reports read, as values without torch, and the one codec for all of it."""
