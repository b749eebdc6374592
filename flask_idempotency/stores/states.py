"""What a record of the embedded stores can be. A lease that ended is no state of its own: only the clock tells."""

CLAIMED = 0
ANSWERING = 1  # once its lease ends, it is as good as completed without a response
RELEASED = 2
ABANDONED = 3
COMPLETED = 4

#: Seconds for which a record is kept that was lost before it was completed: nothing says for how long it was to be.
LOST_RETENTION = 24 * 60 * 60.0
