"""One attempt from message to outcome: claim, execute, settle; and what keeps a process honest.

process.py owns it all; executor.py is the way of one message.
"""
