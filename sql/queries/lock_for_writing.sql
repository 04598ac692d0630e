-- Keep others from making triggers on these tables until the end of the transaction; others may write, and we wait for
-- nobody who does.
lock table {tables} in row exclusive mode
