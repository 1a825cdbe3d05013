"""The machines that decide: CloudSession, EdgeSession and the draft tree they share.

Laws that this package keeps (docs/design.md names all seven):

1. The log is the truth. Drafted tokens never enter it by themselves; a commit is never retracted.
2. A draft can change when a token is committed, never which.
5. Dead is silent, unknown is loud.
7. Deciding is synchronous and pure, performing comes later: time is an argument (integer nanoseconds of any
   monotonic clock), and a call returns the ordered effects that its driver is to perform.
"""
