-- Let the transaction see everything as it stands now, and change nothing; its first statement.
set transaction isolation level repeatable read, read only
