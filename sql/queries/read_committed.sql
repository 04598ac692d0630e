-- Let the transaction see what others commit meanwhile, whatever the session's default; its first statement.
set transaction isolation level read committed
