"""How a caller hands jobs to polling threads: the words (int64) of their shared mailbox."""

SEQUENCE = 0
"""Number of jobs so far; a follower runs the next one when this has grown."""

JOB = 1
"""Address of the job: a `STEP` record."""

CALLING = 2
"""Not 0: a job is about to come, nobody may give up polling."""

N_WORD = 8
"""One cache line."""
