"""What a miss calls, done with care: once for all who ask, in time, and not while it is down."""
