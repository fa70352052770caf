"""The application: the launcher, the command ``usd`` and the public functions."""
