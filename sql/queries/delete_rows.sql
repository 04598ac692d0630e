-- Delete the rows of a table that are about the user; as the owner of the tables.
delete from {table} where {condition}
