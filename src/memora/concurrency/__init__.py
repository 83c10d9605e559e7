"""Threads and tasks served by one implementation: executors, deadlines, locks, breakers, forks."""
