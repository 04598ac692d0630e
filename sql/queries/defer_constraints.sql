-- Put them off again, as the owner wants it.
set constraints all deferred
