"""Test doubles, for our tests and for those of users; nothing else imports them.

standin.py   StandIn, Stream     a model of 50 parameters and endless batches for it
"""

from .standin import StandIn, Stream, standin_batch, standin_experiment

__all__ = ["StandIn", "Stream", "standin_batch", "standin_experiment"]
